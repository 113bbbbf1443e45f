"""Lists of image files, and sizes from their headers."""

import os

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from datasets.formats import image_files
from datasets.formats.image_files import files_in, header_size, images_in
from datasets.loading.images import read_image, read_upright
from tests.datasets.format_cases import write_image, write_text
from util.errors import UserError


def test_images_are_sorted_and_known_by_their_suffix(tmp_path):
    names = ["b.JPG", "a.png", "c d.jpeg", "ü.webp", "._a.png", "a.txt", "inner.png/x.txt"]
    for name in names:
        write_text(tmp_path / name, "")
    assert [path.name for path in images_in(tmp_path)] == ["a.png", "b.JPG", "c d.jpeg", "ü.webp"]


def test_subfolders(tmp_path):
    for name in ("b/2.png", "a/1.png", ".thumbs/0.png", "0.png"):
        write_text(tmp_path / name, "")
    found = [path.relative_to(tmp_path).as_posix() for path in images_in(tmp_path, recursive=True)]
    assert found == ["0.png", "a/1.png", "b/2.png"]


def test_a_folder_that_must_not_be_listed(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot be listed .*; check its permissions"):
        files_in(tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp"])
def test_the_upright_size_is_the_size_after_reading(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write_image(tmp_path / f"a{suffix}", exif=exif)
    size = header_size(path)
    assert size.stored_wh == read_image(path).size
    assert size.upright_wh == read_upright(path).size


def imagemagick_profile(orientation):
    """A text entry of a PNG, as ImageMagick writes EXIF data."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = exif.tobytes()
    return "Raw profile type exif", f"\nexif\n{len(content):8}\n{content.hex()}\n"


def xmp(orientation):
    """A text entry of a PNG, as Adobe's programs write it."""
    text = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><b tiff:Orientation="{orientation}"/></x:xmpmeta>'
    return "XML:com.adobe.xmp", text


@pytest.mark.parametrize("entry", [imagemagick_profile, xmp])
def test_orientations_of_a_png_that_are_not_in_its_exif_chunk(tmp_path, entry):
    info = PngInfo()
    info.add_itxt(*entry(6))
    path = write_image(tmp_path / "a.png", pnginfo=info)
    assert header_size(path) == ((40, 30), (30, 40), True)
    assert read_image(path).size == (40, 30) and read_upright(path).size == (30, 40)


@pytest.mark.parametrize("has_orientation", [False, True])
def test_the_size_of_a_png_with_xmp_is_read_without_decoding_it(
    tmp_path, monkeypatch, has_orientation
):
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp(6)[1] if has_orientation else "<x:xmpmeta/>")
    path = write_image(tmp_path / "a.png", pnginfo=info)
    monkeypatch.setattr(PngImageFile, "load", lambda _: pytest.fail("the image is decoded"))
    assert header_size(path).is_rotated == has_orientation


@pytest.mark.parametrize("content", [b"", b"broken"])
def test_files_that_are_not_images(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    assert header_size(tmp_path / "a.png") is None
    assert header_size(tmp_path / "gone.png") is None


def test_each_file_is_opened_once_until_it_changes(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.png")
    opened = []
    monkeypatch.setattr(image_files, "open_image", lambda *args: opened.append(args) or real(*args))
    assert header_size(path) == header_size(path) == ((40, 30), (40, 30), False)
    assert len(opened) == 1
    write_image(path, (20, 10))
    assert header_size(path).stored_wh == (20, 10)


real = image_files.open_image
