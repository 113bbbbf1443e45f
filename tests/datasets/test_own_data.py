"""Datasets of ``--data``, ``--dataset_file voc`` and ``--dataset_file yolo``."""

import argparse
import logging

import pytest

from datasets import build_dataset
from datasets.coco import CocoDetection
from datasets.loading.images import read_upright
from datasets.loading.listed_images import read_row_image
from tests.datasets.format_cases import (
    voc_object,
    voc_xml,
    write_coco,
    write_image,
    write_text,
    write_voc,
    write_yolo,
)
from tests.datasets.photo_cases import upright_image, write_photo
from util.errors import UserError


def flags(**values):
    defaults = {"dataset_file": "coco", "masks": False, "scales": [32], "seed": 42}
    return argparse.Namespace(**{**defaults, **values})


def build(split="val", known=None, **values):
    return build_dataset(split, flags(**values), known)


@pytest.mark.parametrize(
    ("write", "kind"), [(write_voc, "voc"), (write_yolo, "yolo"), (write_voc, None)]
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_images_and_targets(tmp_path, write, kind, split):
    write(tmp_path)
    where = {f"{kind}_path": str(tmp_path)} if kind else {"data": str(tmp_path)}
    named = build(split, dataset_file=kind or "coco", **where)
    assert isinstance(named, CocoDetection)
    image, target = named[0]
    assert image.shape[0] == 3
    assert target["boxes"].shape[0] == target["labels"].shape[0] > 0
    # The path alone is enough.
    assert build(split, **where).categories == named.categories


def test_the_path_is_needed(tmp_path):
    for kind in ("voc", "yolo"):
        with pytest.raises(UserError, match=f"--dataset_file {kind} needs --{kind}_path"):
            build(dataset_file=kind)


def test_what_was_read_is_printed(tmp_path, capsys, caplog):
    root = write_voc(tmp_path)
    empty = voc_object("dog", (1, 1, 1, 1))
    write_text(root / "Annotations" / "c.xml", voc_xml(voc_object(), empty))
    with caplog.at_level(logging.WARNING):
        build("val", data=str(root))
    assert capsys.readouterr().out.splitlines()[0] == (
        f"Validation data: Pascal VOC, {root}/ImageSets/Main/val.txt: 1 image, 1 object, "
        "2 classes (cat, dog)"
    )
    assert caplog.messages == [
        f"{root}/ImageSets/Main/val.txt: 1 box with zero area ignored: c.xml, object 2 (dog)"
    ]


def test_known_classes_of_a_checkpoint(tmp_path):
    write_voc(tmp_path)
    known = {3: "cat", 8: "emu"}
    for values in ({"data": str(tmp_path)}, {"dataset_file": "voc", "voc_path": str(tmp_path)}):
        assert build("val", known, **values).categories == {3: "cat", 8: "emu", 9: "dog"}


def test_known_classes_leave_ids_of_files_alone(tmp_path):
    write_coco(tmp_path / "images", tmp_path / "mine.json")
    data = build("val", {9: "cat"}, data=str(tmp_path))
    assert data.categories == {1: "cat", 2: "dog"}


def test_the_checks_of_coco_files_name_the_annotation_file(tmp_path, caplog):
    root = write_voc(tmp_path)
    outside = voc_object(box=(100, 100, 120, 120))
    write_text(root / "Annotations" / "c.xml", voc_xml(voc_object(), outside))
    with caplog.at_level(logging.WARNING):
        build("val", data=str(root))
    assert "1 box outside its image: annotation in c.xml (bbox [99.0" in caplog.text
    with pytest.raises(UserError, match=r"val.txt must be corrected: 2 annotations have no usable"):
        build("val", data=str(root), masks=True)


def test_difficult_objects_are_crowds_of_the_evaluation(tmp_path):
    root = write_voc(tmp_path)
    for stem in "abc":
        objects = voc_object(), voc_object("dog", difficult=1)
        write_text(root / "Annotations" / f"{stem}.xml", voc_xml(*objects))
    val = build("val", data=str(root))
    assert [row["iscrowd"] for row in val.coco.anns.values()] == [0, 1]
    assert len(val[0][1]["boxes"]) == 1
    assert len(build("train", data=str(root), crop_prob=0)[0][1]["boxes"]) == 1
    kept = build("val", data=str(root), keep_difficult=True)
    assert len(kept[0][1]["boxes"]) == 2


def test_an_image_of_another_size_than_its_file_is_refused_before_training(tmp_path, capsys):
    root = write_voc(tmp_path)
    xml = voc_xml(voc_object(box=(100, 100, 300, 200)), size_wh=(400, 300))
    write_text(root / "Annotations" / "c.xml", xml)
    problem = "val.txt: 1 image probably resized after annotation: c.xml, 400 x 300, but the image"
    with pytest.raises(UserError, match=rf"{problem} is 40 x 30; scale .* with --skip_checks"):
        build("val", data=str(root))
    build("val", data=str(root), skip_checks=True)[0]
    assert f"{problem} is 40 x 30" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"c.jpg is 30 x 40 pixels .*, but 300 x 400 in"):
        build("val", data=str(root), skip_bad_images=1)[0]  # replaced by the data loader
    write_text(root / "Annotations" / "d.xml", xml)
    write_image(root / "JPEGImages" / "d.jpg")
    write_text(root / "ImageSets" / "Main" / "val.txt", "c\nd\n")
    with pytest.raises(UserError, match="2 images probably resized"):
        build("val", data=str(root), skip_bad_images=1)


def test_masks_of_yolo_polygons(tmp_path):
    write_yolo(tmp_path)
    write_text(tmp_path / "labels/val/c.txt", "0 0 0 1 0 1 1 0 1\n")
    assert build("val", data=str(tmp_path), masks=True)[0][1]["masks"].all()


def test_a_class_list_with_coco_flags(tmp_path, capsys):
    write_coco(tmp_path / "images", tmp_path / "mine.json")
    names = str(write_text(tmp_path / "names.txt", "dog\n"))
    where = {"val_images": str(tmp_path / "images"), "val_ann": str(tmp_path / "mine.json")}
    data = build("val", **where, classes=names)
    assert data.categories == {1: "dog"}
    assert "--classes (val): 2 objects of other classes ignored: cat 2" in capsys.readouterr().out


def test_the_held_out_part_is_the_same_for_every_order_of_files(tmp_path, monkeypatch):
    import os

    for n in range(10):
        write_image(tmp_path / f"{n}.png")
        write_text(tmp_path / f"{n}.xml", voc_xml(voc_object(), filename=f"{n}.png"))
    where = {"data": str(tmp_path), "val_fraction": 0.3}
    expected = [row["file_name"] for row in build("val", **where).coco.imgs.values()]
    real = os.scandir

    class Reversed:
        def __init__(self, path):
            with real(path) as entries:
                self._entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self._entries)

        def __exit__(self, *exception):
            return None

    monkeypatch.setattr(os, "scandir", Reversed)
    assert [row["file_name"] for row in build("val", **where).coco.imgs.values()] == expected


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_photos_of_yolo_data_are_read_upright(tmp_path, orientation):
    write_photo(tmp_path / "images" / "a.jpg", orientation, upright_image((32, 32)))
    write_text(tmp_path / "labels" / "a.txt", "0 0.5 0.5 0.5 0.5")
    write_text(tmp_path / "classes.txt", "cat")
    dataset = build("val", data=str(tmp_path), val_fraction=1.0)
    dataset._transforms = None
    image, _ = dataset[0]
    assert image.tobytes() == read_upright(tmp_path / "images" / "a.jpg").tobytes()
    row = dataset.coco.loadImgs(dataset.ids[0])[0]
    assert read_row_image(dataset.root, row).tobytes() == image.tobytes()
