"""The first lines of a run."""

from types import SimpleNamespace

import pytest
import torch
from pycocotools.coco import COCO
from torch import nn

import main
from datasets.annotations.class_tables import ClassTable
from training.data import Data
from training.resume import LoadedCheckpoint, Start
from training.terminal.opening import build_opening, objects_by_class
from util.category_ids import CategoryIds

NAMES = {1: "cat", 3: "traffic light", 7: "never seen"}


class Split(torch.utils.data.Dataset):
    def __init__(self, ids, ann_file, origin=None):
        self.coco, self.ann_file = COCO(), ann_file
        if origin is not None:
            self.origin = origin
        annotations = [{"id": n, "category_id": i, "image_id": 1} for n, i in enumerate(ids)]
        annotations.append({"id": 99, "category_id": 1, "image_id": 1, "iscrowd": 1})
        self.coco.dataset = {"images": [{"id": 1}], "annotations": annotations, "categories": []}
        self.coco.createIndex()

    def __len__(self):
        return 10


def opening(*flags, start=None, names=NAMES, **resolved):
    args = main.parse_command_line(["--output_dir", "out", "--device", "cpu", *flags]).args
    vars(args).update(resolved)
    train = None if args.eval else Split([3, 3, 1], "train.json", "YOLO, data.yaml (train)")
    val = Split([3], "val.json")
    ids = CategoryIds(tuple(range(8)))
    data = Data(train, val, ClassTable("training", "", names, {}), val.coco, ids)
    return build_opening(args, start or Start(), data, nn.Linear(1000, 1000))


def test_data_model_device_and_folder():
    lines = opening("--batch_size", "3", "--amp", "bf16").splitlines()
    assert (
        lines[0]
        == "training    10 images (9 without objects), 3 objects from YOLO, data.yaml (train)"
    )
    assert lines[1] == "validation  10 images (9 without objects), 1 object from val.json"
    assert lines[2].startswith(
        "classes     3, with training/validation objects: traffic light 2/1,"
    )
    assert lines[2].endswith(" light 2/1, cat 1/0, never seen 0/0")
    text = "\n".join(lines)
    assert "1.0 million parameters (1.0 trained), 100 queries" in text
    assert "classification head with 8 rows plus no-object" in text.replace("\n            ", " ")
    assert "backbone from ImageNet, transformer and heads random" in text
    assert "bfloat16" in text and "300, each with 3 steps of 3 images" in text
    assert lines[-2:] == ["output      out", ""] or lines[-1] == "output      out"


@pytest.mark.parametrize(
    ("flags", "start", "text"),
    [
        (["--backbone_weights", "none"], Start(), "weights     random"),
        ([], Start(finetune=LoadedCheckpoint("a.pth", {})), "matching weights from a.pth"),
        ([], Start(resume=LoadedCheckpoint("b.pth", {})), "weights     from b.pth"),
        (["--masks"], Start(frozen=LoadedCheckpoint("c.pth", {})), "frozen detector from c.pth"),
    ],
)
def test_where_the_weights_come_from(flags, start, text):
    assert text in opening(*flags, start=start)


def test_both_stages_of_a_run_with_a_frozen_backbone():
    stages = ["--epochs", "9", "--freeze_backbone_epochs", "4", "--freeze_batch_size", "5"]
    text = opening(*stages, "--batch_size", "2")
    assert (
        "4 with a frozen backbone, each with 2 steps of 5 images; then 5, each with 5 steps of 2"
    ) in text.replace("\n            ", " ")


def test_the_reason_for_a_chosen_precision():
    text = opening(amp_auto="this processor has no fast bf16").replace("\n            ", " ")
    assert "float32 (--amp auto: this processor has no fast bf16)" in text
    assert text.count("float32") == opening().count("float32") == 1


def test_an_evaluation_has_no_training_data():
    text = opening("--eval")
    assert "with validation objects: traffic light 1, cat 0" in text
    assert "training" not in text and "epochs" not in text


def test_many_classes_are_cut_and_no_line_is_too_long():
    names = {i: f"some long class name {i}" for i in range(300)}
    text = opening(names=names)
    assert "and 280 more" in text
    assert max(map(len, text.splitlines())) <= 100
    assert "some long class name 3 2/1" in text.replace("\n            ", "|")


def test_panoptic_segments_are_objects():
    segments = [{"category_id": 1}, {"category_id": 2}, {"category_id": 2, "iscrowd": 1}]
    panoptic = SimpleNamespace(coco={"annotations": [{"segments_info": segments}]})
    assert objects_by_class(panoptic) == {1: 1, 2: 1}
    assert objects_by_class(object()) == {}
