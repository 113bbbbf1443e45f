"""Every mode becomes RGB, nothing is clipped to white, and broken files are named."""

import warnings

import numpy as np
import pytest
from PIL import Image

from datasets.loading.images import gray_to_8_bits, read_image, to_rgb
from util.errors import UserError


def colours(width: int = 16, height: int = 12) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "La", "CMYK", "YCbCr", "HSV"],
)
def test_eight_bit_modes_become_what_pillow_makes_of_them(mode):
    by_way_of = {"PA": "P", "RGBa": "RGBA", "La": "LA"}.get(mode, mode)
    image = colours().convert(by_way_of).convert(mode)
    rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    assert rgb.size == image.size
    assert rgb.tobytes() == colours().convert(by_way_of).convert("RGB").tobytes()


def test_lab_is_converted():
    white = Image.frombytes("LAB", (1, 1), bytes([255, 0, 0]))
    assert min(to_rgb(white).getpixel((0, 0))) > 250


def test_result_is_a_copy():
    image = colours()
    to_rgb(image).putpixel((0, 0), (1, 2, 3))
    assert image.tobytes() == colours().tobytes()


def test_palette_with_transparency_gives_its_colours_without_a_warning(tmp_path):
    path = tmp_path / "palette.png"
    palette = colours().quantize(16)
    palette.save(path, transparency=bytes([0] * 8 + [255] * 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path).tobytes() == palette.convert("RGB").tobytes()


def test_transparent_pixels_keep_their_colour(tmp_path):
    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_use_the_whole_range(tmp_path, suffix):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    path = tmp_path / f"ramp.{suffix}"
    Image.fromarray(ramp).save(path)
    rgb = np.asarray(read_image(path)).astype(int)
    assert np.abs(rgb[..., 0] - np.arange(256).reshape(16, 16)).max() <= 1
    assert (rgb[..., 0] == rgb[..., 1]).all()
    assert (rgb[..., 0] == rgb[..., 2]).all()


def test_big_endian_sixteen_bits():
    ramp = np.array([[0, 256, 65535]], dtype=">u2")
    image = Image.frombytes("I;16B", (3, 1), ramp.tobytes())
    assert [pixel[0] for pixel in np.asarray(to_rgb(image))[0]] == [0, 1, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),  # 8 bits in a deep file
        (np.array([[0, 2048, 4095]], np.uint16), [0, 128, 255]),  # 12 bits
        (np.array([[0, 2**30, 2**31 - 1]], np.int32), [0, 128, 255]),
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255]),  # signed: stretched
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 7.0, 200.0]], np.float32), [0, 7, 200]),
        (np.array([[0.0, 500.0, 1000.0]], np.float32), [0, 128, 255]),
        (np.array([[-1.0, 0.0, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[np.nan, 0.2, np.inf]], np.float32), [51, 51, 51]),
        (np.array([[np.nan]], np.float32), [0]),
        (np.array([[-3.0, -3.0]], np.float32), [0, 0]),
        (np.zeros((1, 2), np.uint16), [0, 0]),
    ],
)
def test_grey_scales(values, expected):
    scaled = gray_to_8_bits(values)
    assert scaled.dtype == np.uint8
    assert scaled[0].tolist() == expected


def test_grey_scale_keeps_the_order_of_values():
    values = np.random.default_rng(0).integers(0, 3000, 100).astype(np.uint16)
    scaled = gray_to_8_bits(values[None])[0]
    assert (np.diff(scaled[np.argsort(values)].astype(int)) >= 0).all()


def test_grey_jpeg_has_the_bytes_of_pillow(tmp_path):
    path = tmp_path / "grey.jpg"
    colours().convert("L").save(path)
    with Image.open(path) as image:
        assert read_image(path).tobytes() == image.convert("RGB").tobytes()


def test_exif_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter for display
    colours(16, 12).save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png").tobytes() == colours(16, 12).tobytes()


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_file_is_named(tmp_path, suffix):
    path = tmp_path / f"half.{suffix}"
    colours(64, 64).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"half\.{suffix} cannot be read"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_file_that_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"odd\.png cannot be read"):
        read_image(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.jpg does not exist"):
        read_image(tmp_path / "gone.jpg")


def test_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    colours().save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match=r"bomb\.png is too large: .*decompression bomb"):
        read_image(tmp_path / "bomb.png")


def test_large_images_are_scaled_in_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 4096, (37, 11)).astype(np.uint16), rng.normal(size=(37, 11))]
    pictures[1][3, 4], pictures[1][30, 2] = np.nan, -np.inf
    whole = [gray_to_8_bits(values) for values in pictures]
    monkeypatch.setattr("datasets.loading.images._VALUES_AT_ONCE", 50)
    for values, expected in zip(pictures, whole, strict=True):
        assert (gray_to_8_bits(values) == expected).all()


def test_the_name_in_a_message_can_be_chosen(tmp_path):
    with pytest.raises(UserError, match=r"^image id 7 does not exist$"):
        read_image(tmp_path / "gone.jpg", "image id 7")
