"""YOLO data: images and label files that belong together, sizes, and class ids."""

import pytest
from PIL import Image

from datasets.loading.images import read_upright
from datasets.loading.listed_images import read_row_image
from tests.datasets.format_cases import (
    boxes_by_image,
    read,
    write_image,
    write_text,
    write_yolo,
)
from tests.datasets.photo_cases import upright_image, write_photo
from util.errors import UserError


def notes(tables):
    return [str(note) for note in tables.notes]


def test_a_split(tmp_path):
    root = write_yolo(tmp_path)
    tables = read(root, "train")
    dog = [("dog", [15, 7.5, 10, 15])]
    assert boxes_by_image(tables.data) == {"a.png": dog, "b.png": dog}
    assert tables.img_folder == root / "images" / "train"
    assert [(row["id"], row["name"]) for row in tables.data["categories"]] == [
        (1, "cat"),
        (2, "dog"),
        (3, "emu"),
    ]
    assert tables.summary("train") == (
        f"Training data: YOLO, {root}/data.yaml (train): 2 images, 2 objects, "
        "3 classes (cat, dog, emu)"
    )


def test_images_of_several_folders(tmp_path):
    write_yolo(tmp_path)
    write_text(tmp_path / "data.yaml", "train: [images/train, images/val]\nnames: [cat, dog]")
    tables = read(tmp_path, "val", val_fraction=1)
    assert tables.img_folder == tmp_path / "images"
    assert list(boxes_by_image(tables.data)) == ["train/a.png", "train/b.png", "val/c.png"]


def test_lists_with_paths_of_all_kinds(tmp_path, monkeypatch):
    write_yolo(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    lines = [
        "images/train/a.png",
        f"{tmp_path}/data/images/train/b.png",
        "../data/images/val/c.png",
    ]
    write_text(tmp_path / "data/train.txt", "\n".join(lines))
    write_text(tmp_path / "data/data.yaml", "train: train.txt\nnames: [cat, dog]")
    tables = read("data", "val", val_fraction=1)
    assert tables.img_folder == tmp_path / "data" / "images"
    assert list(boxes_by_image(tables.data)) == ["train/a.png", "train/b.png", "val/c.png"]
    assert len(tables.data["annotations"]) == 3


def test_polygons_become_segmentations(tmp_path):
    write_yolo(tmp_path)
    write_text(tmp_path / "labels/train/a.txt", "0 0.25 0.5 0.5 0.5 0.25 1\n")
    row = read(tmp_path).data["annotations"][0]
    assert row["segmentation"] == [[10, 15, 20, 15, 10, 30]]
    assert row["bbox"] == [10, 15, 10, 15]
    assert row["area"] == pytest.approx(75, abs=5)  # of the mask, not of the box


def test_the_area_of_joined_parts_does_not_depend_on_their_directions(tmp_path):
    """Two squares, joined by a line there and back, as in files converted from COCO."""
    write_yolo(tmp_path)
    first = "0.1 0.2 0.3 0.2 0.3 0.4 0.1 0.4 0.1 0.2"
    second = ["0.6 0.6 0.8 0.6 0.8 0.8 0.6 0.8 0.6 0.6", "0.6 0.6 0.6 0.8 0.8 0.8 0.8 0.6 0.6 0.6"]
    write_text(tmp_path / "labels/train/a.txt", "\n".join(f"0 {first} {part}" for part in second))
    rows = read(tmp_path).data["annotations"][:2]
    assert [row["area"] for row in rows] == pytest.approx([96, 96], abs=10)


def test_labels_apart_in_one_folder_and_next_to_the_images_of_another(tmp_path):
    write_yolo(tmp_path, {"train": ["a"]})
    write_image(tmp_path / "more" / "b.png")
    write_text(tmp_path / "more" / "b.txt", "2 0.5 0.5 0.25 0.5\n")
    write_text(tmp_path / "data.yaml", "train: [images/train, more]\nnames: [cat, dog, emu]")
    data = read(tmp_path, "val", val_fraction=1).data
    names = {row["id"]: row["file_name"] for row in data["images"]}
    found = {names[row["image_id"]]: row["category_id"] for row in data["annotations"]}
    assert found == {"images/train/a.png": 2, "more/b.png": 3}


def test_images_without_label_file_have_no_objects(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "labels/train/a.txt").unlink()
    assert boxes_by_image(read(tmp_path).data)["a.png"] == []


def test_no_label_file_at_all(tmp_path):
    write_yolo(tmp_path)
    for path in (tmp_path / "labels/train").iterdir():
        path.unlink()
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert f"{tmp_path}/labels/train/a.txt; put" in str(caught.value)


def test_label_files_without_image_are_noted(tmp_path):
    write_yolo(tmp_path)
    write_text(tmp_path / "labels/train/gone.txt", "0 0.5 0.5 0.5 0.5")
    write_text(tmp_path / "labels/train/classes.txt", "cat\n")
    lone = f"1 file without an image ignored: {tmp_path}/labels/train/gone.txt"
    assert notes(read(tmp_path)) == [lone]


def test_labels_of_another_split_in_the_folder_are_not_lone(tmp_path):
    for name in ("a", "b", "c"):
        write_image(tmp_path / "images" / f"{name}.png")
        write_text(tmp_path / "labels" / f"{name}.txt", "0 0.5 0.5 0.5 0.5")
    write_text(tmp_path / "train.txt", "images/a.png")
    write_text(tmp_path / "val.txt", "images/b.png")
    write_text(tmp_path / "data.yaml", "train: train.txt\nval: val.txt\nnames: [cat]")
    assert notes(read(tmp_path)) == []


def test_boxes_without_area_are_noted_with_file_and_line(tmp_path):
    write_yolo(tmp_path)
    write_text(tmp_path / "labels/train/a.txt", "0 0.5 0.5 0.5 0.5\n2 0.5 0.5 0 0\n")
    assert notes(read(tmp_path)) == ["1 box with zero area ignored: a.txt, line 2 (emu)"]


def test_unreadable_images_are_left_out(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "images/train/a.png").write_bytes(b"broken")
    tables = read(tmp_path)
    assert list(boxes_by_image(tables.data)) == ["b.png"]
    assert notes(tables) == [f"1 unreadable image ignored: {tmp_path}/images/train/a.png"]


def test_invalid_lines_of_several_files_are_named_together(tmp_path):
    write_yolo(tmp_path)
    for name in ("a", "b"):
        write_text(tmp_path / "labels/train" / f"{name}.txt", "9 0.5 0.5 0.5 0.5")
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert all(f"{name}.txt, line 1: class 9, but" in str(caught.value) for name in ("a", "b"))


def test_labels_refer_to_the_upright_image(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "images/train/a.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(tmp_path / "images/train/a.jpg", exif=exif)
    data = read(tmp_path).data
    row = next(row for row in data["images"] if row["file_name"] == "a.jpg")
    assert (row["width"], row["height"]) == (30, 40)
    assert boxes_by_image(data)["a.jpg"] == [("dog", [11.25, 10, 7.5, 20])]


def test_a_missing_split_of_the_yaml_file_is_held_out_and_reported(tmp_path):
    write_yolo(tmp_path)
    write_text(tmp_path / "data.yaml", "train: images/train\nval: images/gone\nnames: [cat, dog]")
    tables = read(tmp_path, "val")
    assert len(tables.data["images"]) == 1
    assert tables.remarks == [
        f"{tmp_path}/data.yaml lists paths that do not exist: val: images/gone"
    ]
    assert read(tmp_path, "train").remarks == []
    assert "(1 of 2 images: --val_fraction 0.1, --split_seed 42)" in tables.summary("val")


def test_images_of_another_folder_are_reported(tmp_path):
    """Roboflow's ``../train/images`` means this folder, but may exist beside it too."""
    write_yolo(tmp_path)
    own = write_yolo(tmp_path / "mine")
    write_text(own / "data.yaml", "train: ../images/train\nval: images/val\nnames: [cat, dog]")
    assert read(own, "val").remarks == []
    assert read(own, "train").remarks == [
        f"The images of {own}/data.yaml (train) are read from {tmp_path}/images/train"
    ]


@pytest.mark.parametrize("name", ["A.TXT", "a.Txt"])
def test_label_files_in_another_case_are_found(tmp_path, name):
    write_yolo(tmp_path)
    (tmp_path / "labels/train/a.txt").rename(tmp_path / "labels/train" / name)
    tables = read(tmp_path)
    assert len(boxes_by_image(tables.data)["a.png"]) == 1
    assert tables.notes == []


def test_label_files_with_accents_in_another_encoding_are_found(tmp_path):
    write_yolo(tmp_path)
    write_image(tmp_path / "images/train/caf\u00e9.png")
    write_text(tmp_path / "labels/train/cafe\u0301.txt", "0 0.5 0.5 0.5 0.5")
    assert len(boxes_by_image(read(tmp_path).data)["caf\u00e9.png"]) == 1


def test_labels_of_another_image_are_not_taken(tmp_path):
    write_yolo(tmp_path, {"train": ["a", "A"], "val": ["c"]})
    (tmp_path / "labels/train/A.txt").unlink()
    boxes = boxes_by_image(read(tmp_path).data)
    assert boxes["A.png"] == [] and len(boxes["a.png"]) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_refer_to_the_upright_photo(tmp_path, orientation):
    """Also of orientations that keep the size, which the size of the image does not show."""
    write_photo(tmp_path / "images" / "a.jpg", orientation, upright_image((32, 32)))
    write_text(tmp_path / "labels" / "a.txt", "0 0.5 0.5 0.5 0.5")
    write_text(tmp_path / "classes.txt", "cat")
    tables = read(tmp_path, "val", val_fraction=1)
    image = read_row_image(tables.img_folder, tables.data["images"][0])
    assert image.tobytes() == read_upright(tmp_path / "images" / "a.jpg").tobytes()
