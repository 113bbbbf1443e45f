"""Limits of image files, and error messages."""

import io
import os

import pytest
from PIL import Image

from tests.datasets.odd_images import colours, png_that_claims, saved
from util.errors import UserError
from util.files.image_files import MAX_PIXELS, MAX_SIDE, ImageTooLargeError, open_image


def refusal(file) -> UserError:
    with pytest.raises(UserError) as caught, open_image(file, "picture") as image:
        image.load()
    assert str(caught.value).startswith("picture ")
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("as_path", [True, False])
def test_a_good_file_is_read_from_a_path_or_a_stream(tmp_path, as_path):
    content = saved(colours(), "PNG")
    (tmp_path / "a.png").write_bytes(content)
    with open_image(tmp_path / "a.png" if as_path else io.BytesIO(content), "it") as image:
        assert image.convert("RGB").tobytes() == colours().tobytes()


@pytest.mark.parametrize(
    "size_wh",
    [
        (MAX_SIDE + 1, 1),
        (1, MAX_SIDE + 1),
        (MAX_SIDE, MAX_PIXELS // MAX_SIDE + 1),
        (60_000, 60_000),
        (2**31 - 1, 2**31 - 1),
    ],
)
def test_sizes_beyond_the_limits(size_wh):
    assert isinstance(refusal(io.BytesIO(png_that_claims(*size_wh))), ImageTooLargeError)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size_wh", [(MAX_SIDE, 1), (MAX_SIDE, MAX_PIXELS // MAX_SIDE)])
def test_sizes_at_the_limits(size_wh):
    with open_image(io.BytesIO(png_that_claims(*size_wh)), "picture") as image:
        assert image.size == size_wh


def test_limits_do_not_depend_on_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    error = refusal(io.BytesIO(png_that_claims(60_000, 60_000)))
    assert isinstance(error, ImageTooLargeError)
    assert f"60000 x 60000 pixels (width x height), the limits are {MAX_SIDE}" in str(error)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in str(refusal(tmp_path / "pipe"))  # and nothing waits for it
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.JPG").touch()
    assert str(refusal(tmp_path)).endswith("is a folder; give an image file in it, such as b.JPG")
    assert "does not exist" in str(refusal(tmp_path / "gone.png"))
    (tmp_path / "lost").symlink_to("nowhere")
    assert "does not exist" in str(refusal(tmp_path / "lost"))
    assert "null byte" in str(refusal(str(tmp_path / "a\0b")))
    assert "too long" in str(refusal(tmp_path / ("x" * 5000)))
    assert "surrogates" in str(refusal(tmp_path / "\ud800"))


def test_no_right_to_read(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", "somewhere")

    (tmp_path / "a.png").touch()
    monkeypatch.setattr(Image, "open", refuse)
    assert "cannot be read: Permission denied; replace" in str(refusal(tmp_path / "a.png"))


def test_an_error_without_words_is_named_by_its_type(monkeypatch):
    def fail(*args):
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)
    assert "cannot be read: MemoryError;" in str(refusal(io.BytesIO()))
