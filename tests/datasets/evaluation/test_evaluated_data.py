"""The stored data of an evaluation."""

import pytest

from datasets.evaluation.evaluated_data import (
    EvaluatedData,
    data_flags_text,
    ground_truth_hash,
    read_evaluated_data,
    write_evaluated_data,
)
from tests.datasets.evaluation.detection_cases import coco_of

BOX = {"image_id": 1, "category_id": 2, "bbox": [1.5, 2, 30, 40]}
FLAGS = {"dataset_file": "voc", "voc_path": "my data", "coco_path": None, "seed": 42}


def test_the_hash_depends_on_images_and_boxes_but_not_on_order_or_folder():
    first = ground_truth_hash(coco_of([BOX, {**BOX, "category_id": 1}], num_images=2))
    moved = coco_of([{**BOX, "category_id": 1}, BOX], num_images=2)
    for row in moved.imgs.values():
        row["file_name"] = f"/elsewhere/{row['file_name']}"
    assert ground_truth_hash(moved) == first


@pytest.mark.parametrize(
    "change", [{"image_id": 2}, {"category_id": 1}, {"bbox": [1, 2, 30, 40]}, {"iscrowd": 1}]
)
def test_the_hash_changes_with_an_annotation(change):
    before, after = (coco_of([box], num_images=2) for box in (BOX, {**BOX, **change}))
    assert ground_truth_hash(before) != ground_truth_hash(after)


def test_the_hash_changes_with_an_image():
    before, after = coco_of([BOX]), coco_of([BOX])
    after.imgs[1]["file_name"] = "other.png"
    assert ground_truth_hash(before) != ground_truth_hash(after)
    assert ground_truth_hash(before) != ground_truth_hash(coco_of([BOX], num_images=2))


def test_entries_of_other_evaluations_are_kept(tmp_path):
    (tmp_path / "eval").mkdir()
    old, new = (EvaluatedData(name, FLAGS, {7: "cat"}) for name in ("old", "new"))
    write_evaluated_data(tmp_path, ["eval/latest.pth", "eval/detections.json"], old)
    write_evaluated_data(tmp_path, ["eval.pth", "eval/detections.json"], new)
    found = read_evaluated_data(tmp_path)
    assert found == {"eval/latest.pth": old, "eval.pth": new, "eval/detections.json": new}


@pytest.mark.parametrize("text", [None, "{", "[]", '{"eval.pth": 1}', '{"eval.pth": {"hash": 1}}'])
def test_without_a_valid_file_there_are_no_entries(tmp_path, text):
    if text is not None:
        (tmp_path / "eval").mkdir()
        (tmp_path / "eval" / "data.json").write_text(text)
    assert read_evaluated_data(tmp_path) == {}


def test_flags_as_on_the_command_line():
    flags = {**FLAGS, "keep_difficult": True, "masks": True}
    assert data_flags_text(flags) == "--dataset_file voc --voc_path 'my data' --keep_difficult"
    coco = {"dataset_file": "coco", "data": "d", "keep_difficult": False, "val_fraction": 0.2}
    assert data_flags_text(coco) == "--data d --val_fraction 0.2"
