"""Flags that name the data: which ones go together."""

import pytest

import main
from training.flags.checks import check_flags, check_training_flags
from util.errors import UserError


def check(*argv):
    args = main.parse_command_line([*argv, "--device", "cpu"]).args
    check_flags(args)


@pytest.mark.parametrize(
    "argv",
    [
        ["--data", "a"],
        ["--data", "a", "--dataset_file", "coco", "--val_fraction", "0.2", "--keep_difficult"],
        ["--voc_path", "a"],
        ["--dataset_file", "voc", "--voc_path", "a", "--keep_difficult"],
        ["--dataset_file", "yolo", "--yolo_path", "a", "--classes", "b", "--val_fraction", "0.5"],
        ["--coco_path", "a", "--train_images", "b", "--classes", "c"],
        ["--data", "a", "--val_fraction", "1", "--eval"],
        ["--data", "a", "--split_seed", "1"],
        ["--dataset_file", "coco_panoptic", "--coco_path", "a", "--coco_panoptic_path", "b"],
        ["--resume", "a.pth", "--coco_path", "a", "--coco_panoptic_path", "b"],
        ["--resume", "a.pth", "--coco_path", "a", "--masks", "--panoptic_threshold", "0.5"],
        ["--dataset_file", "shapes_panoptic", "--masks", "--panoptic_threshold", "0.5"],
        ["--coco_path", "a", "--masks", "--panoptic_threshold", "0.85"],  # an old default
    ],
)
def test_flags_that_go_together(argv):
    check(*argv)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--data", "a", "--coco_path", "b"], "--data and --coco_path select several datasets"),
        (["--data", "a", "--voc_path", "b"], "--data and --voc_path select several datasets: give"),
        (["--data", "a", "--val_ann", "b"], "--data and --val_ann select several datasets"),
        (["--data", "a", "--dataset_file", "voc"], "--dataset_file voc does not read --data"),
        (["--voc_path", "a", "--dataset_file", "yolo"], "yolo does not read --voc_path: omit"),
        (["--data", "a", "--val_fraction", "10"], "--val_fraction 10.0: must be above 0 and at"),
        (["--data", "a", "--val_fraction", "0"], "--val_fraction 0.0: must be above 0"),
        (["--data", "a", "--val_fraction", "nan"], "--val_fraction nan: must be above 0"),
        (
            ["--data", "a", "--val_fraction", "1"],
            "leaves no images for training: use it only",
        ),
        (["--coco_path", "a", "--val_fraction", "0.1"], "--val_fraction requires --data"),
        (["--yolo_path", "a", "--keep_difficult"], "it requires --data or --voc_path"),
        (["--dataset_file", "coco_panoptic", "--classes", "a"], "--classes does not apply to"),
        (["--coco_path", "a", "--split_seed", "1"], "--split_seed requires --data"),
        (["--coco_path", "a", "--coco_panoptic_path", "b"], "add --dataset_file coco_panoptic"),
        (["--masks", "--panoptic_threshold", "0.5"], "--dataset_file coco has no panoptic maps"),
    ],
)
def test_flags_that_contradict_each_other(argv, says):
    with pytest.raises(UserError) as caught:
        check(*argv)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("unused", "says"),
    [
        (["--split_seed", "1"], "--split_seed requires"),
        (["--coco_panoptic_path", "b"], "--coco_panoptic_path: "),
        (["--masks", "--panoptic_threshold", "0.5"], "--panoptic_threshold 0.5: "),
        (["--lr_min", "1e-6"], "--lr_min 1e-06: "),
        (
            ["--coco_path", "", "--dataset_file", "shapes", "--val_fraction", "0.5"],
            "--val_fraction requires",
        ),
        (
            ["--coco_path", "", "--dataset_file", "shapes", "--keep_difficult"],
            "--keep_difficult applies to",
        ),
    ],
)
def test_the_first_start_with_auto_resume_refuses_what_any_start_refuses(unused, says):
    argv = ["--coco_path", "a", "--output_dir", "c", "--auto_resume", *unused, "--device", "cpu"]
    args = main.parse_command_line(argv).args
    check_flags(args)  # the checkpoint is not yet known
    with pytest.raises(UserError, match=f"^{says}"):
        check_training_flags(args)
    args.resume = "c/checkpoint.pth"  # as `resolve_flags` sets it
    check_training_flags(args)


@pytest.mark.parametrize(
    ("flag", "data", "name"),
    [
        ("--data", "/x/animals", "animals"),
        ("--data", "/x/animals/data.yaml", "animals"),
        ("--data", "/x/a b/", "a b"),
        ("--voc_path", "/x/VOCdevkit", "VOCdevkit"),
        ("--yolo_path", "/x/animals/data.yaml", "animals"),
        ("--dataset_file", "shapes", "shapes"),
    ],
)
def test_runs_are_named_after_the_data(flag, data, name):
    assert main.parse_command_line([flag, data, "--device", "cpu"]).run_name == name
