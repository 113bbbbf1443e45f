"""Image files of every odd kind, each made by a function of its own that returns the bytes."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import ExifTags, Image

WIDTH, HEIGHT = 40, 30


def colours(size_wh: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    width, height = size_wh
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def in_mode(mode: str, format: str) -> bytes:
    return saved(colours().convert(mode), format)


def deep_grey(dtype: type, format: str, largest: float) -> bytes:
    ramp = np.linspace(0, largest, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(dtype)
    return saved(Image.fromarray(ramp), format)


def turned(format: str) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return saved(colours(), format, exif=exif)


def animated(format: str) -> bytes:
    frames = [colours(), colours().rotate(90, expand=False)]
    return saved(frames[0], format, save_all=True, append_images=frames[1:])


def png_that_claims(width: int, height: int) -> bytes:
    """A whole PNG but for its pixels, of which there are none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def cut(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\nshowpage\n%%EOF\n"

READABLE: dict[str, Callable[[], bytes]] = {
    "rgb.jpg": lambda: in_mode("RGB", "JPEG"),
    "grey.jpg": lambda: in_mode("L", "JPEG"),
    "cmyk.jpg": lambda: in_mode("CMYK", "JPEG"),
    "turned.jpg": lambda: turned("JPEG"),
    "garbage_after.jpg": lambda: in_mode("RGB", "JPEG") + b"garbage" * 100,
    "two_pictures.mpo": lambda: animated("MPO"),
    "rgb.webp": lambda: saved(colours(), "WEBP", lossless=True),
    "alpha.webp": lambda: saved(colours().convert("RGBA"), "WEBP", lossless=True),
    "animated.webp": lambda: animated("WEBP"),
    "animated.gif": lambda: animated("GIF"),
    "animated.png": lambda: animated("PNG"),
    "black_and_white.png": lambda: in_mode("1", "PNG"),
    "grey_alpha.png": lambda: in_mode("LA", "PNG"),
    "alpha.png": lambda: in_mode("RGBA", "PNG"),
    "palette.png": lambda: in_mode("P", "PNG"),
    "palette_transparent.png": lambda: saved(
        colours().quantize(16), "PNG", transparency=bytes([0] * 8 + [255] * 8)
    ),
    "turned.png": lambda: turned("PNG"),
    "deep_grey.png": lambda: deep_grey(np.uint16, "PNG", 65535),
    "deep_grey.tif": lambda: deep_grey(np.uint16, "TIFF", 4095),
    "deep_grey.pgm": lambda: deep_grey(np.uint16, "PPM", 65535),
    "signed_grey.tif": lambda: deep_grey(np.int32, "TIFF", 2**30),
    "float_grey.tif": lambda: deep_grey(np.float32, "TIFF", 1),
    "cmyk.tif": lambda: in_mode("CMYK", "TIFF"),
    "lab.tif": lambda: saved(Image.new("LAB", (WIDTH, HEIGHT), (128, 20, 200)), "TIFF"),
    "rgb.bmp": lambda: in_mode("RGB", "BMP"),
    "png_called.jpg": lambda: in_mode("RGB", "PNG"),
    "one_pixel.png": lambda: saved(colours((1, 1)), "PNG"),
    "thin.png": lambda: saved(colours((1, 5000)), "PNG"),
    "flat.png": lambda: saved(colours((5000, 1)), "PNG"),
}

# The bytes, and what the message says.
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "cut.jpg": (lambda: cut(in_mode("RGB", "JPEG")), "cannot be read: image file is truncated"),
    "cut.png": (lambda: cut(in_mode("RGB", "PNG")), "cannot be read: image file is truncated"),
    "cut.gif": (lambda: cut(in_mode("P", "GIF")), "cannot be read: image file is truncated"),
    "cut.tif": (lambda: cut(in_mode("RGB", "TIFF")), "cannot be read"),
    "cut.webp": (lambda: cut(in_mode("RGB", "WEBP")), "cannot be read"),
    "empty.jpg": (lambda: b"", "cannot be read: it is empty"),
    "zeros.jpg": (lambda: bytes(5000), "it is in no known image format and begins with b'\\x00"),
    "photo.jpg": (lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is a HEIC photo, which"),
    "text.jpg": (lambda: b"hello", "it is in no known image format and begins with b'hello'"),
    "page.jpg": (lambda: b"<!DOCTYPE html><html>404</html>", "begins with b'<!DOCTYPE html>"),
    "program.jpg": (lambda: EPS, "EPS is a program, not an image"),
    "bomb.png": (lambda: png_that_claims(60_000, 60_000), "is too large: Image size (3600000000"),
    "long.png": (lambda: png_that_claims(70_000, 1), "is too large: 70000 x 1 pixels"),
    "longest.png": (lambda: png_that_claims(2**31 - 1, 1), "is too large"),
    "no_pixels.png": (lambda: png_that_claims(100, 100), "cannot be read"),
    "no_size.png": (lambda: png_that_claims(0, 0), "cannot be read"),
}
