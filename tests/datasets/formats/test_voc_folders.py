"""Layouts of Pascal VOC data that are recognized."""

import pytest

from datasets.formats.voc_folders import find_voc
from tests.datasets.format_cases import voc_object, voc_xml, write_image, write_text, write_voc
from util.errors import UserError


def pair(root, xml, image):
    write_text(root / xml, voc_xml(voc_object()))
    write_image(root / image)


@pytest.mark.parametrize("given", [".", "VOCdevkit", "VOCdevkit/VOC2007"])
def test_any_folder_of_the_development_kit(tmp_path, given):
    root = write_voc(tmp_path / "VOCdevkit" / "VOC2007")
    splits = find_voc(tmp_path / given)
    assert {name: part.list_file for name, part in splits.items()} == {
        name: root / "ImageSets" / "Main" / f"{name}.txt" for name in ("train", "val")
    }


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        (["train", "val", "trainval", "test"], {"train": "train", "val": "val"}),
        (["trainval", "test"], {"train": "trainval", "val": "test"}),
        (["train", "test"], {"train": "train", "val": "test"}),
        (["trainval"], {"train": "trainval"}),
        (["train"], {"train": "train"}),
    ],
)
def test_lists(tmp_path, lists, expected):
    write_voc(tmp_path, {name: ["a"] for name in lists})
    found = {name: part.list_file.stem for name, part in find_voc(tmp_path).items()}
    assert found == expected


@pytest.mark.parametrize(
    ("xml", "image", "splits"),
    [
        ("a.xml", "a.jpg", {"train": (".", ".")}),
        ("a.XML", "images/a.jpg", {"train": (".", "images")}),
        ("annotations/a.xml", "Images/a.jpg", {"train": ("annotations", "Images")}),
        ("xmls/a.xml", "a.jpg", {"train": ("xmls", ".")}),
        ("train/a.xml", "train/a.jpg", {"train": ("train", "train")}),
        ("valid/a.xml", "valid/a.jpg", {"val": ("valid", "valid")}),
        (
            "train/Annotations/a.xml",
            "train/JPEGImages/a.jpg",
            {"train": ("train/Annotations", "train/JPEGImages")},
        ),
        (
            "annotations/val/a.xml",
            "images/val/a.jpg",
            {"val": ("annotations/val", "images/val")},
        ),
    ],
)
def test_folders_without_lists(tmp_path, xml, image, splits):
    pair(tmp_path, xml, image)
    found = find_voc(tmp_path)
    assert {name: (part.xml_folder, part.img_folder) for name, part in found.items()} == {
        name: (tmp_path / one, tmp_path / other) for name, (one, other) in splits.items()
    }


def test_several_years_are_named(tmp_path):
    for year in (2007, 2012):
        write_voc(tmp_path / "VOCdevkit" / f"VOC{year}")
    with pytest.raises(UserError) as caught:
        find_voc(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} contains several Pascal VOC datasets; give one: "
        f"{tmp_path}/VOCdevkit/VOC2007 or {tmp_path}/VOCdevkit/VOC2012"
    )


@pytest.mark.parametrize("content", ["<annotations/>", "<svg/>", "", "{}"])
def test_other_xml_is_not_pascal_voc(tmp_path, content):
    write_text(tmp_path / "a.xml", content)
    write_image(tmp_path / "a.jpg")
    assert find_voc(tmp_path) is None


def test_files_of_macos_are_left_out(tmp_path):
    write_text(tmp_path / "._a.xml", voc_xml(voc_object()))
    assert find_voc(tmp_path) is None
