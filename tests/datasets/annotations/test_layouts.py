"""Folders in other layouts than COCO's, and the flags that read them."""

from pathlib import Path

import pytest

from datasets.annotations.layouts import coco_paths, find_split
from util.errors import UserError


def write(root: Path, *names: str, content: str = "") -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def refusal(root: Path, image_set: str = "val") -> str:
    with pytest.raises(UserError) as caught:
        coco_paths(image_set, str(root), None, None)
    message = str(caught.value)
    assert message.startswith(f"--coco_path {root}") and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("files", "train", "val"),
    [
        (
            ["train/_annotations.coco.json", "valid/_annotations.coco.json"],
            ("train", "train/_annotations.coco.json"),
            ("valid", "valid/_annotations.coco.json"),
        ),
        (
            [
                *("images/train/1.jpg", "annotations/instances_train.json"),
                *("images/val/1.jpg", "annotations/instances_val.json"),
            ],
            ("images/train", "annotations/instances_train.json"),
            ("images/val", "annotations/instances_val.json"),
        ),
        (
            ["images/1.jpg", "annotations/train.json", "annotations/val.json"],
            ("images", "annotations/train.json"),
            ("images", "annotations/val.json"),
        ),
        (
            [
                *("train/data/1.jpg", "train/labels.json"),
                *("validation/data/1.jpg", "validation/labels.json"),
            ],
            ("train/data", "train/labels.json"),
            ("validation/data", "validation/labels.json"),
        ),
    ],
)
@pytest.mark.parametrize("image_set", ["train", "val"])
def test_the_flag_that_reads_it_is_named(tmp_path, files, train, val, image_set):
    root = write(tmp_path / "my data", *files)
    message = refusal(root, image_set)
    assert f"read it with --data '{root}'" in message
    expected = dict(zip(("train", "val"), (train, val), strict=True))
    for split, (images, annotations) in expected.items():
        assert find_split(root, split) == (root / images, root / annotations)


def test_roboflow_is_named(tmp_path):
    files = ("train/_annotations.coco.json", "valid/_annotations.coco.json")
    assert "it looks like a Roboflow export" in refusal(write(tmp_path, *files))


def test_no_validation_data(tmp_path):
    root = write(tmp_path, "train2017/1.jpg", "annotations/instances_train2017.json")
    message = refusal(root)
    assert "there is no validation data: give --val_images and --val_ann" in message
    assert f"hold out a part of the training images with --data {root}" in message
    assert coco_paths("train", str(root), None, None)[0] == root / "train2017"
    assert coco_paths("val", str(root), "a", "b.json") == (Path("a"), Path("b.json"))


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("Annotations/1.xml", "<annotation><folder>x</folder>", "Pascal VOC"),
        ("VOCdevkit/VOC2007/Annotations/1.xml", "<annotation>", "Pascal VOC"),
        ("labels/train/1.txt", "0 0.5 0.5 0.1 0.1\n", "YOLO"),
        ("train/labels/1.txt", "3 0.5 0.5 0.1 0.1\n", "YOLO"),
        ("data.yaml", "train: images\nnc: 2\nnames: [a, b]\n", "YOLO"),
    ],
)
def test_other_formats_are_named(tmp_path, name, content, format):
    message = refusal(write(tmp_path, name, content=content))
    assert f"it looks like {format} ({tmp_path / name}): read it with --data {tmp_path}" in message


def test_the_right_folder_is_inside(tmp_path):
    write(tmp_path, "coco/val2017/1.jpg", "coco/annotations/instances_val2017.json")
    assert f"give --coco_path {tmp_path}/coco" in refusal(tmp_path)


def test_other_json_files_are_listed(tmp_path):
    write(tmp_path, "annotations/mine.json")
    message = refusal(tmp_path)
    assert "give one of its JSON files with --data" in message
    assert message.endswith(f": {tmp_path}/annotations/mine.json")


def test_a_path_that_is_no_folder(tmp_path):
    write(tmp_path, "a.json", "dataset/1.jpg")
    assert "is a file, not a folder; give an annotation file with --val_ann" in refusal(
        tmp_path / "a.json"
    )
    assert "does not exist, did you mean dataset?" in refusal(tmp_path / "datasets")


def test_nothing_known_is_left_to_the_checks_of_paths(tmp_path):
    assert coco_paths("val", str(tmp_path), None, None)[0] == tmp_path / "val2017"


@pytest.mark.parametrize("function", ["os.scandir", "pathlib.Path.iterdir"])
def test_folders_that_may_not_be_listed_are_passed_over(tmp_path, monkeypatch, function):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    write(tmp_path, "labels/1.txt", content="0 0.5 0.5 0.1 0.1")
    monkeypatch.setattr(function, refuse)
    assert coco_paths("val", str(tmp_path), None, None)[0] == tmp_path / "val2017"


def test_images_of_roboflow_are_next_to_the_file(tmp_path):
    write(tmp_path, "train/_annotations.coco.json", "images/train/1.jpg")
    assert find_split(tmp_path, "train") == (
        tmp_path / "train",
        tmp_path / "train/_annotations.coco.json",
    )


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        (None, None, "there is no validation data.*: give --val_images and --val_ann, or --coco"),
        ("a", None, "--val_images is given, but there is no validation data.*: give --val_ann, or"),
        (None, "a.json", "--val_ann is given, but there is no .*: give --val_images, or"),
    ],
)
def test_missing_flags_are_named(images, annotations, message):
    with pytest.raises(UserError, match=message):
        coco_paths("val", None, images, annotations)
