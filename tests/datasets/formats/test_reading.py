"""Reading a split as the flags say."""

import json

import pytest

from datasets.formats.reading import ReadOptions, read_split
from datasets.formats.recognize import recognize
from tests.datasets.format_cases import (
    boxes_by_image,
    coco_tables,
    read,
    voc_object,
    voc_xml,
    write_image,
    write_text,
    write_voc,
    write_yolo,
)
from util.errors import UserError


def write_unsplit(root, count=20):
    for n in range(count):
        write_image(root / f"{n}.png")
        write_text(root / f"{n}.xml", voc_xml(voc_object(), filename=f"{n}.png"))
    return root


def test_a_held_out_part(tmp_path):
    root = write_unsplit(tmp_path)
    train, val = read(root, "train"), read(root, "val")
    assert (len(train.data["images"]), len(val.data["images"])) == (18, 2)
    assert val.summary("val").startswith(
        f"Validation data: Pascal VOC, {root} (2 of 20 images: --val_fraction 0.1, --split_seed"
    )
    assert f"{root} (the other images): 18 images" in train.summary("train")
    other = read(root, "val", val_fraction=0.25, seed=7)
    assert len(other.data["images"]) == 5


def test_held_out_images_are_kept_when_the_folder_grows(tmp_path):
    """Also of YOLO images whose common folder changes with a new subfolder."""
    write_yolo(tmp_path, {"train": [str(n) for n in range(20)]})
    source = recognize(tmp_path)
    before = read_split(source, "val", ReadOptions(val_fraction=0.1))
    held_out = before.split.val
    assert held_out < {f"images/train/{n}.png" for n in range(20)}
    for n in range(20):
        write_image(tmp_path / "images" / "more" / f"{n}.png")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat, dog, emu]\n")
    options = ReadOptions(val_fraction=0.1, seed=9)
    after = read_split(recognize(tmp_path), "val", options, earlier=before.split)
    names = {f"images/{row['file_name']}" for row in after.data["images"]}
    assert len(names) == 4 and held_out < names and names == after.split.val
    assert before.split.train < after.split.train
    assert after.part == (
        " (4 of 40 images: 2 as in the checkpoint, 2 of 20 new ones by --val_fraction 0.1, "
        "--split_seed 9)"
    )
    again = read_split(recognize(tmp_path), "val", options, earlier=after.split)
    assert again.part == " (4 of 40 images: 4 as in the checkpoint)"
    everything = read_split(source, "val", ReadOptions(val_fraction=1), earlier=after.split)
    assert everything.part == " (20 of 20 images: --val_fraction 1, --split_seed 42)"


def test_notes_belong_to_the_part_of_their_image(tmp_path):
    root = write_unsplit(tmp_path)
    held_out = {row["file_name"] for row in read(root, "val").data["images"]}
    for n in range(20):
        empty = voc_object("dog", (1, 1, 1, 1))
        write_text(root / f"{n}.xml", voc_xml(voc_object(), empty, filename=f"{n}.png"))
    (note,) = read(root, "val").notes
    assert {place.file for place in note.places} == {
        name.replace("png", "xml") for name in held_out
    }
    (note,) = read(root, "train").notes
    assert len(note.places) == 18


def test_validation_data_alone(tmp_path):
    write_yolo(tmp_path, {"val": ["a", "b"]})
    assert len(read(tmp_path, "val").data["images"]) == 2
    with pytest.raises(UserError, match="validation images only; --eval can use them"):
        read(tmp_path, "train")


def test_a_fraction_of_split_data(tmp_path):
    write_yolo(tmp_path)
    with pytest.raises(UserError, match=r"--val_fraction 0.5: the data has validation images; om"):
        read(tmp_path, "val", val_fraction=0.5)
    assert read(tmp_path, "val", val_fraction=0.5, restored=True).part == " (val)"


def test_difficult_objects_of_other_formats(tmp_path):
    write_yolo(tmp_path)
    with pytest.raises(UserError, match="applies to Pascal VOC, but the data is YOLO"):
        read(tmp_path, "val", keep_difficult=True)
    assert read(tmp_path, "val", keep_difficult=True, restored=True).remarks == []


def test_a_class_list(tmp_path):
    root = write_voc(tmp_path / "voc")
    names = str(write_text(tmp_path / "names.txt", "dog\nunicorn\n"))
    train, val = (read(root, split, classes=names) for split in ("train", "val"))
    assert [[name for name, _ in one] for one in boxes_by_image(train.data).values()] == [
        ["dog"],
        ["dog"],
    ]
    assert train.data["categories"] == val.data["categories"]
    assert train.data["categories"] == [{"id": 1, "name": "dog"}, {"id": 2, "name": "unicorn"}]
    assert any("does not have 'unicorn'" in remark for remark in train.remarks)
    assert any("1 object of other classes ignored: cat 1" in one for one in val.remarks)


def test_image_ids_that_are_text_are_named(tmp_path):
    data = coco_tables()
    for row in data["images"]:
        row["id"] = str(row["id"])
    write_image(tmp_path / "a.png")
    write_text(tmp_path / "train.json", json.dumps(data))
    with pytest.raises(UserError, match=r"2 images have an invalid id \(must be a 64-bit integer"):
        read(tmp_path)
