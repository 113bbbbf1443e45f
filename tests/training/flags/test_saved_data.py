"""Where the data of a checkpoint's run is, if the command line names none or other data."""

import pytest

import main
from training.flags.arguments import flag_actions
from training.flags.data_checks import check_data_flags
from training.flags.saved import resolve_for_resume
from util.errors import UserError


def resolved(*argv, **saved):
    """Flags of a run that continues a checkpoint with these flags."""
    line = main.parse_command_line([*argv, "--resume", "x.pth", "--device", "cpu"])
    defaults = vars(main.get_args_parser("cpu").parse_args([]))
    state = {"optimizer": {}, "lr_scheduler": {}, "epoch": 0}
    checkpoint = {"args": {**defaults, **saved}, "rng": {}, "categories": {}, **state}
    args = resolve_for_resume(line.args, checkpoint, line.given, flag_actions())
    check_data_flags(args, is_resumed=True)
    return args


OWN = {"data": "mine", "val_fraction": 0.2, "seed": 7, "classes": "names.txt"}


def test_the_data_of_the_checkpoint():
    args = resolved(**OWN)
    assert (args.data, args.val_fraction, args.seed, args.classes) == ("mine", 0.2, 7, "names.txt")


def test_the_same_part_is_held_out_of_moved_data():
    args = resolved("--data", "moved", **OWN)
    assert (args.data, args.val_fraction, args.seed) == ("moved", 0.2, 7)


@pytest.mark.parametrize(
    ("argv", "saved", "dataset_file"),
    [
        (["--data", "a"], {"dataset_file": "voc", "voc_path": "b"}, "coco"),
        (["--data", "a"], {"dataset_file": "shapes", "coco_path": "b"}, "coco"),
        (["--data", "a"], {"dataset_file": "coco_panoptic", "coco_path": "b"}, "coco"),
        (["--voc_path", "a"], {"dataset_file": "yolo", "yolo_path": "b"}, "voc"),
        (["--yolo_path", "a"], {"dataset_file": "shapes", "coco_path": "b"}, "yolo"),
        (["--coco_path", "a"], {"dataset_file": "voc", "voc_path": "b"}, "coco"),
        (["--coco_path", "a"], OWN, "coco"),
        (["--coco_path", "a"], {"voc_path": "b", "keep_difficult": True}, "coco"),
    ],
)
def test_other_data_replaces_the_data_of_the_checkpoint(argv, saved, dataset_file):
    args = resolved(*argv, **saved)
    flag, value = argv
    paths = {"data", "voc_path", "yolo_path", "coco_path"}
    given = {name: getattr(args, name) for name in paths if getattr(args, name)}
    assert given == {flag.removeprefix("--"): value}
    assert args.dataset_file == dataset_file


def test_another_seed_keeps_the_validation_images():
    args = resolved("--seed", "9", **OWN)
    assert (args.seed, args.split_seed) == (9, 7)
    args = resolved("--seed", "11", **{**OWN, "seed": 9, "split_seed": 7})
    assert (args.seed, args.split_seed) == (11, 7)
    assert resolved("--seed", "7", **OWN).split_seed is None
    assert resolved("--seed", "9", coco_path="a").split_seed is None


@pytest.mark.parametrize("flag", [["--split_seed", "9"], ["--val_fraction", "0.3"]])
def test_training_keeps_its_validation_images(flag):
    with pytest.raises(UserError, match=f"{flag[0]} .*was trained with {flag[0]}"):
        resolved(*flag, **OWN)
    assert getattr(resolved("--eval", *flag, **OWN), flag[0][2:]) == float(flag[1])


def test_a_changed_world_size_is_reported_with_the_images_per_step(capsys):
    resolved("--accum_steps", "2", world_size=2, accum_steps=1, batch_size=4)
    assert "from 2 to 1; images per optimizer step: 8 before, 8 now" in capsys.readouterr().out


def test_reading_flags_wait_for_the_data_of_the_checkpoint():
    flags = ["--val_fraction", "0.3", "--resume", "x.pth", "--eval", "--device", "cpu"]
    check_data_flags(main.parse_command_line(flags).args, is_resumed=True)
    with pytest.raises(UserError, match=r"--val_fraction .*--data"):
        resolved(*flags, coco_path="a")
