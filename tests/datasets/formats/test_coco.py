"""COCO annotation files in any usual layout."""

import json

import pytest

from datasets.formats.coco import find_coco_file, find_coco_splits
from tests.datasets.format_cases import coco_tables, read, write_coco, write_image, write_text
from util.errors import UserError


@pytest.mark.parametrize(
    ("folders", "files"),
    [
        (
            ("train2017", "val2017"),
            ("annotations/instances_train2017.json", "annotations/instances_val2017.json"),
        ),
        (("train", "valid"), ("train/_annotations.coco.json", "valid/_annotations.coco.json")),
        (("train/data", "validation/data"), ("train/labels.json", "validation/labels.json")),
        (("images", "images"), ("annotations/train.json", "annotations/val.json")),
        (("photos", "photos"), ("train.json", "val.json")),
        (("photos/big", "photos/small"), ("train.json", "val.json")),
    ],
)
def test_both_splits(tmp_path, folders, files):
    for stems, folder, file in zip(("ab", "c"), folders, files, strict=True):
        write_coco(tmp_path / folder, tmp_path / file, stems)
    for split, folder, file in zip(("train", "val"), folders, files, strict=True):
        tables = read(tmp_path, split)
        assert (tables.img_folder, tables.source) == (tmp_path / folder, tmp_path / file)
    assert tables.data == coco_tables("c")


def test_one_split_of_two(tmp_path):
    write_coco(tmp_path / "train", tmp_path / "train" / "_annotations.coco.json", "abcd")
    assert find_coco_splits(tmp_path).splits.keys() == {"train"}
    assert len(read(tmp_path, "train").data["images"]) == 3
    assert len(read(tmp_path, "val").data["images"]) == 1


@pytest.mark.parametrize("name", ["mine", "channels"])
@pytest.mark.parametrize("file", ["labels.json", "annotations/instances_default.json"])
def test_an_image_folder_outside_the_data_folder_is_reported(tmp_path, name, file):
    root = tmp_path / name
    write_coco(tmp_path / "other", root / file)
    remark = f"The images of {root / file} are read from {tmp_path / 'other'}"
    assert remark in read(root, "val").remarks
    write_coco(root / "images", root / file)
    tables = read(root, "val")
    assert tables.img_folder == root / "images" and not tables.remarks


@pytest.mark.parametrize(
    ("folder", "file", "data"),
    [
        ("images", "json/train.json", ""),
        ("images", "annotations/v1/train.json", "annotations"),
        ("images", "annotations/v1/train.json", "annotations/v1/train.json"),
        ("images/train", "train/labels.json", ""),
    ],
)
def test_an_image_folder_inside_the_data_folder_is_not_reported(tmp_path, folder, file, data):
    write_coco(tmp_path / folder, tmp_path / file)
    tables = read(tmp_path / data, "val")
    assert tables.img_folder == tmp_path / folder and not tables.remarks


def test_an_image_folder_that_is_a_link_is_not_reported(tmp_path):
    root = tmp_path / "mine"
    write_coco(tmp_path / "disk", root / "annotations" / "instances_default.json")
    (root / "images").symlink_to(tmp_path / "disk")
    tables = read(root, "val")
    assert tables.img_folder == root / "images" and not tables.remarks


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        (".", "_annotations.coco.json"),
        ("data", "labels.json"),
        ("images", "annotations/instances_default.json"),
        ("images", "result.json"),
        ("photos/raw", "my labels.json"),
    ],
)
@pytest.mark.parametrize("given", ["folder", "file"])
def test_a_single_file(tmp_path, folder, file, given):
    write_coco(tmp_path / folder, tmp_path / file)
    write_text(tmp_path / "package.json", '{"name": "no annotations"}')
    write_text(tmp_path / "captions_val.json", '{"images": []}')
    write_text(tmp_path / "lines.json", "not JSON")
    tables = read(tmp_path if given == "folder" else tmp_path / file, "val", val_fraction=1)
    assert (tables.img_folder, tables.source) == (tmp_path / folder, tmp_path / file)
    assert tables.data == coco_tables()


def test_several_files_are_named(tmp_path):
    for name in ("one", "two"):
        write_text(tmp_path / f"{name}.json", json.dumps(coco_tables()))
    with pytest.raises(UserError, match=r"several annotation files; give one: .*/one.json or .*tw"):
        find_coco_file(tmp_path)


def test_images_that_are_nowhere_near(tmp_path):
    write_text(tmp_path / "mine.json", json.dumps(coco_tables()))
    write_image(tmp_path / "other.png")
    message = r"mine.json: its images, such as a.png, are not in .* with --train_images and the fil"
    with pytest.raises(UserError, match=message):
        read(tmp_path / "mine.json")


def test_a_missing_image_is_left_to_the_checks(tmp_path):
    write_coco(tmp_path, tmp_path / "mine.json")
    (tmp_path / "a.png").unlink()
    assert read(tmp_path / "mine.json", "val", val_fraction=1).img_folder == tmp_path


def test_a_file_in_another_format(tmp_path):
    write_text(tmp_path / "mine.json", "[]")
    with pytest.raises(UserError, match="is not in COCO format"):
        read(tmp_path / "mine.json")


def test_paths_written_on_windows(tmp_path):
    data = coco_tables("abcd")
    for row in data["images"]:
        write_image(tmp_path / "photos" / "new" / row["file_name"])
        row["file_name"] = f"new\\{row['file_name']}"
    write_text(tmp_path / "train.json", json.dumps(data))
    tables = read(tmp_path)
    assert tables.img_folder == tmp_path / "photos"
    assert all(row["file_name"].startswith("new/") for row in tables.data["images"])
