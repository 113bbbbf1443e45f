import io

import numpy as np
import pytest
from PIL import Image

from util.errors import UserError
from util.files.image_files import ImageTooLargeError
from util.files.panoptic_png import MAX_ID, decode_id_map, encode_id_map, id2rgb, rgb2id


def test_ids_and_colours_are_inverse():
    ids = np.random.default_rng(0).integers(0, MAX_ID + 1, (40, 50))
    assert np.array_equal(rgb2id(id2rgb(ids)), ids)


def test_each_byte_has_its_colour():
    colors = id2rgb(np.array([[1, 256, 65536, MAX_ID]]))
    assert colors.dtype == np.uint8
    assert colors.tolist() == [[[1, 0, 0], [0, 1, 0], [0, 0, 1], [255, 255, 255]]]


def test_single_numbers_are_python_numbers():
    assert rgb2id((3, 2, 1)) == 3 + 2 * 256 + 65536
    assert id2rgb(3 + 2 * 256 + 65536) == [3, 2, 1]


def test_uint8_colours_do_not_overflow():
    assert rgb2id(np.full((1, 1, 3), 255, dtype=np.uint8)).tolist() == [[MAX_ID]]


@pytest.mark.parametrize("shape", [(), (2,), (4,), (3, 5, 6)])
def test_other_than_three_channels_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(\.\.\., 3\)"):
        rgb2id(np.zeros(shape, dtype=np.uint8))


@pytest.mark.parametrize("bad", [-1, MAX_ID + 1])
def test_ids_outside_three_bytes_are_refused(bad):
    with pytest.raises(ValueError, match=f"0 to {MAX_ID}"):
        id2rgb(np.array([[0, bad]]))


@pytest.mark.parametrize("size_hw", [(1, 1), (7, 5)])
def test_png_round_trip(size_hw):
    ids = np.random.default_rng(1).integers(0, MAX_ID + 1, size_hw)
    assert np.array_equal(decode_id_map(io.BytesIO(encode_id_map(ids))), ids)


def test_files_with_alpha_or_palette_are_read_by_colour(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGBA", (3, 2), (5, 1, 0, 7)).save(path)
    assert decode_id_map(path).tolist() == [[261] * 3] * 2


def test_what_is_no_image_is_named(tmp_path):
    with pytest.raises(UserError, match=r"segment map cannot be read: it is in no known"):
        decode_id_map(io.BytesIO(b"not a png"))
    (tmp_path / "a.png").write_text("<html>")
    with pytest.raises(UserError, match=r"^map 3 cannot be read: .* begins with b'<html>'"):
        decode_id_map(tmp_path / "a.png", "map 3")


def test_maps_too_large_or_too_deep_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("I;16", (3, 2)).save(path)
    with pytest.raises(UserError, match=r"mode I;16, but segment ids are coded in 8-bit RGB"):
        decode_id_map(path)
    monkeypatch.setattr("util.files.image_files.MAX_PIXELS", 5)
    with pytest.raises(ImageTooLargeError, match=r"3 x 2 pixels .* 5 in all"):
        decode_id_map(path)
