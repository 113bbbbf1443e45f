"""Both stages of segmentation from the command line, on tiny data."""

import json

import pytest
import torch

from datasets.shapes.directory import write_shapes
from tests.cheap_runs import with_pictures
from tests.drawn_data import drawn_data
from tests.test_main import assert_one_line, read_checkpoint, read_log, run

data = drawn_data(num_train=4, num_val=3)


@pytest.fixture(scope="module")
def boxes(data, tmp_path_factory):
    """Stage one: boxes of things and stuff."""
    folder = tmp_path_factory.mktemp("boxes")
    flags = ["--dataset_file", "shapes_panoptic", "--epochs", "1", "--output_dir", folder]
    assert run(data, *flags) == 0
    return folder


@pytest.fixture(scope="module")
def panoptic(data, boxes, tmp_path_factory):
    """Stage two: the mask head on frozen weights. The threshold lets an untrained model speak."""
    folder = tmp_path_factory.mktemp("panoptic")
    flags = ["--dataset_file", "shapes_panoptic", "--masks", "--panoptic_threshold", "0"]
    frozen = ["--frozen_weights", boxes / "checkpoint.pth", "--dump_detections", folder / "d.json"]
    with with_pictures():
        assert run(data, *flags, *frozen, "--epochs", "1", "--output_dir", folder) == 0
    return folder


def test_box_stage_on_panoptic_data_scores_boxes_alone(boxes):
    (entry,) = read_log(boxes)
    assert "test_coco_eval_bbox" in entry
    assert not {"test_coco_eval_masks", "test_PQ_all", "train_loss_mask"} & entry.keys()


def test_mask_stage_reports_everything(panoptic):
    (entry,) = read_log(panoptic)
    assert len(entry["test_coco_eval_masks"]) == len(entry["test_coco_eval_bbox"]) == 12
    assert {"train_loss_mask", "train_loss_dice", "test_loss_mask_unscaled"} <= entry.keys()
    for name in ("test_PQ_all", "test_PQ_th", "test_PQ_st"):
        assert entry[name].keys() == {"pq", "sq", "rq", "n"}


def test_mask_stage_leaves_its_files(panoptic):
    files = {p.relative_to(panoptic).as_posix() for p in panoptic.rglob("*") if p.is_file()}
    maps = {f"panoptic_eval/{image_id:012d}.png" for image_id in (1, 2, 3)}
    assert files == maps | {
        *("panoptic_eval/predictions.json", "panoptic.png", "detections.png", "d.json"),
        *("checkpoint.pth", "best.pth", "log.txt", "config.txt"),
        *("eval/000.pth", "eval/latest.pth", "eval/detections.json", "eval/data.json"),
    }
    found = json.loads((panoptic / "d.json").read_text())
    assert found and all({"bbox", "segmentation", "score"} <= one.keys() for one in found)


def test_mask_stage_trains_the_mask_head_alone(boxes, panoptic):
    before = read_checkpoint(boxes / "checkpoint.pth")["model"]
    after = read_checkpoint(panoptic / "checkpoint.pth")["model"]
    detector = {k.removeprefix("detr."): v for k, v in after.items() if k.startswith("detr.")}
    assert detector.keys() == before.keys()
    assert all(torch.equal(detector[name], before[name]) for name in before)
    assert {k.split(".")[0] for k in after} == {"detr", "bbox_attention", "mask_head"}


def test_scoring_a_checkpoint_gives_the_numbers_of_its_epoch(data, panoptic, tmp_path):
    flags = ["--dataset_file", "shapes_panoptic", "--masks", "--panoptic_threshold", "0"]
    found = tmp_path / "d.json"
    # Frozen or not, PyTorch multiplies matrices in another order: the last bit may differ.
    frozen = ["--frozen_weights", "as in training", "--dump_detections", found]
    assert run(data, *flags, "--resume", panoptic / "checkpoint.pth", "--eval", *frozen) == 0
    assert json.loads(found.read_text()) == json.loads((panoptic / "d.json").read_text())


def test_resume_brings_the_frozen_weights_with_it(data, boxes, panoptic, tmp_path):
    flags = ["--dataset_file", "shapes_panoptic", "--masks", "--epochs", "2"]
    starts = ["--resume", panoptic / "checkpoint.pth", "--frozen_weights", "/gone.pth"]
    assert run(data, *flags, *starts, "--output_dir", tmp_path) == 0
    assert [entry["epoch"] for entry in read_log(tmp_path)] == [1]


def test_instances_alone_and_frozen_weights_out_of_a_segmentation_model(data, panoptic, tmp_path):
    frozen = ["--frozen_weights", panoptic / "checkpoint.pth", "--dataset_file", "shapes"]
    assert run(data, "--masks", *frozen, "--epochs", "1", "--output_dir", tmp_path) == 0
    (entry,) = read_log(tmp_path)
    assert "test_coco_eval_masks" in entry and "test_PQ_all" not in entry
    assert not (tmp_path / "panoptic_eval").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--frozen_weights", "/nowhere.pth"], ["/nowhere.pth"]),
        (["--num_classes", "3"], ["category_id", "--num_classes 3"]),
        (["--train_ann", "x.json"], ["--train_ann"]),
        (["--dataset_file", "coco_panoptic"], ["--coco_panoptic_path"]),
    ],
)
def test_mistakes_are_named(data, capsys, flags, words):
    base = ["--dataset_file", "shapes_panoptic", "--masks", "--epochs", "1"]
    assert_one_line(capsys, run(data, *base, *flags), *words)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_map_that_does_not_fit_is_named_when_it_is_read(data, capsys, tmp_path, num_workers):
    root = tmp_path / "data"
    write_shapes(root, num_train=2, num_val=1, image_size=64)
    first, second = sorted((root / "panoptic_train2017").iterdir())
    first.write_bytes(second.read_bytes())
    flags = ["--dataset_file", "shapes_panoptic", "--epochs", "1", "--num_workers", num_workers]
    assert_one_line(capsys, run(root, *flags), "image id 100001", "segments_info")
