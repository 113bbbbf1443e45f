"""Flags not given come from the checkpoint; given ones that contradict its weights are errors."""

import argparse

import pytest
import torch
from torchvision.models import resnet34

import main
from models import backbone
from models.released.zoo import RELEASED_MODELS
from tests.drawn_data import drawn_data
from tests.narrow_resnet import SHALLOW
from tests.test_main import FLAGS, assert_one_line, read_checkpoint, read_log
from tests.test_main import run_simple as run
from training import evaluation
from training.flags.saved import as_flag, resolve_flags, resolve_for_new_run, resolve_for_resume
from training.resume import LoadedCheckpoint, Start
from util.errors import UserError
from util.options import NEW_FLAG_DEFAULTS

BARE = ["--num_workers", "0", "--device", "cpu"]
HERE = ["--backbone_weights", "none", *BARE]

data = drawn_data(num_train=4, num_val=4)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run whose flags are far from the defaults."""
    folder = tmp_path_factory.mktemp("run")
    flags = ["--pre_norm", "--max_size", "90", "--epochs", "1", "--bbox_loss_coef", "2"]
    assert run(data, *flags, "--output_dir", folder) == 0
    return folder / "checkpoint.pth"


@pytest.fixture(scope="module")
def trained_resnet18(data, tmp_path_factory):
    """A run with a backbone whose last stage is as wide as ResNet-34's."""
    folder = tmp_path_factory.mktemp("resnet18")
    flags = ["--pre_norm", "--epochs", "1", "--backbone", "resnet18", "--lr_backbone", "0"]
    assert run(data, *flags, "--output_dir", folder) == 0
    return folder / "checkpoint.pth"


def bare_run(data, *flags):
    return main.run([*BARE, "--coco_path", str(data), *map(str, flags)])


@pytest.fixture
def scores(monkeypatch):
    """What evaluations return."""
    results = []
    evaluate = evaluation.evaluate
    monkeypatch.setattr(
        evaluation, "evaluate", lambda *a, **k: results.append(evaluate(*a, **k)) or results[-1]
    )
    return results


def test_a_checkpoint_of_ours_is_evaluated_without_any_other_flag(data, trained, scores, capsys):
    assert bare_run(data, "--eval", "--resume", trained) == 0
    (entry,) = read_log(trained.parent)
    for name, value in scores[0][0].items():
        assert entry[f"test_{name}"] == value, name
    taken = capsys.readouterr().out
    for flag in ("--nheads 4", "--scales 64", "--max_size 90", "--pre_norm"):
        assert flag in taken
    assert f"From {trained}: " in taken


def test_main_called_without_knowing_what_was_given(data, trained, scores):
    """A script hands over a namespace: what differs from the default counts as given."""
    args = main.get_args_parser().parse_args([*BARE, "--coco_path", str(data), "--eval"])
    args.resume, args.max_size = str(trained), 60
    main.main(args)
    (entry,) = read_log(trained.parent)
    assert scores[0][0]["loss"] != entry["test_loss"]  # smaller images
    assert args.nheads == 8, "the caller's namespace stays as it is"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--nheads", "2"], ["--nheads 2", "trained with --nheads 4", "--finetune"]),
        (["--dilation"], ["--dilation", "trained with no --dilation"]),
        (["--num_queries", "100"], ["--num_queries 100", "--num_queries 6"]),
        (["--masks"], ["--masks", "no --masks"]),
        (["--num_classes", "4"], ["--num_classes 4", "91 classes"]),
    ],
)
@pytest.mark.parametrize("mode", [["--eval"], []])
def test_a_flag_that_contradicts_the_weights_is_an_error(
    data, trained, capsys, tmp_path, flags, words, mode
):
    status = bare_run(data, *mode, "--resume", trained, "--output_dir", tmp_path, *flags)
    assert_one_line(capsys, status, str(trained), *words)


def test_another_flag_is_used_and_reported(data, trained, scores, capsys):
    assert bare_run(data, "--eval", "--resume", trained, "--max_size", "60") == 0
    assert "--max_size: 90 in the checkpoint, now 60" in capsys.readouterr().out
    (entry,) = read_log(trained.parent)
    assert scores[0][0]["loss"] != entry["test_loss"]


def test_a_resumed_run_keeps_its_flags(data, trained, tmp_path, capsys):
    flags = ["--resume", trained, "--epochs", "2", "--output_dir", tmp_path]
    assert bare_run(data, *flags) == 0
    args = read_checkpoint(tmp_path / "checkpoint.pth")["args"]
    before = read_checkpoint(trained)["args"]
    changed = {name for name in before if before[name] != args[name]}
    assert changed <= {"resume", "epochs", "start_epoch", "output_dir"}


def test_saved_switches_can_be_undone(trained, tmp_path):
    on = {"aux_loss": False, "deterministic": True, "group_aspect": True, "lr_scale_batch": True}
    on["iou_targets"] = True
    off = ["--aux_loss", "--no_deterministic", "--no_group_aspect", "--no_lr_scale_batch"]
    off.append("--no_iou_targets")
    for argv, expected in (([], on), (off, {name: not value for name, value in on.items()})):
        args = resolved(trained, *argv, given=set(on) if argv else set(), **on)
        assert {name: getattr(args, name) for name in on} == expected


def test_averaged_weights_that_are_missing_are_not_evaluated(data, trained, capsys):
    flags = ["--eval", "--resume", trained, "--ema_decay", "0.9"]
    assert_one_line(capsys, bare_run(data, *flags), "use --ema_decay 0")


def test_the_segment_threshold_of_earlier_versions(data, trained, tmp_path):
    """Its default was saved by all runs."""
    checkpoint = read_checkpoint(trained)
    checkpoint["args"]["panoptic_threshold"] = 0.85
    torch.save(checkpoint, tmp_path / "old.pth")
    assert bare_run(data, "--eval", "--resume", tmp_path / "old.pth") == 0


def test_scripts_may_give_tuples_and_integers(trained, tmp_path):
    checkpoint = read_checkpoint(trained)
    checkpoint["args"] |= {"image_mean": [0.0] * 3, "image_std": (0.5, 1, 0.5)}
    args = main.get_args_parser().parse_args([])
    args.resume, args.image_mean = str(trained), (0, 0, 0)
    start = Start(resume=LoadedCheckpoint(args.resume, checkpoint))
    found = resolve_flags(args, start, None, main.flag_actions())
    assert found.image_mean == (0, 0, 0) and list(found.image_std) == [0.5, 1, 0.5]
    args.image_mean = (0, 0, 0.1)
    with pytest.raises(UserError, match=r"--image_mean 0 0 0.1: .* trained with --image_mean 0.0"):
        resolve_flags(args, start, None, main.flag_actions())


def with_flags_of_the_original(path, folder, **changed):
    checkpoint = read_checkpoint(path)
    flags = {k: v for k, v in checkpoint["args"].items() if k not in NEW_FLAG_DEFAULTS}
    checkpoint["args"] = argparse.Namespace(**{**flags, **changed})
    torch.save(checkpoint, folder / "original.pth")
    return folder / "original.pth"


def test_the_original_s_flags_decide_on_the_architecture_alone(data, trained, tmp_path, capsys):
    original = with_flags_of_the_original(trained, tmp_path, bbox_loss_coef=7, batch_size=3)
    assert bare_run(data, "--eval", "--resume", original, "--scales", "64") == 0
    output = capsys.readouterr().out
    assert "--nheads 4" in output and "bbox_loss_coef 7" not in output
    assert "--bbox_loss_coef: 7 in the checkpoint, now 5" in output
    assert "--batch_size: 3 in the checkpoint, now 2" in output


def test_a_file_without_flags_is_read_as_before(data, trained, tmp_path, capsys):
    bare = tmp_path / "bare.pth"
    torch.save({"model": read_checkpoint(trained)["model"]}, bare)
    assert_one_line(capsys, bare_run(data, "--eval", "--resume", bare), "--hidden_dim 32")
    assert run(data, "--eval", "--resume", bare, "--pre_norm") == 0


def test_an_impossible_saved_value_is_named(data, trained, tmp_path, capsys):
    original = with_flags_of_the_original(trained, tmp_path, nheads="four")
    status = bare_run(data, "--eval", "--resume", original)
    assert_one_line(capsys, status, "original.pth", "--nheads has the invalid value 'four'")


def test_data_paths_come_as_a_whole_or_not_at_all(trained):
    args = main.get_args_parser().parse_args(["--val_ann", "mine.json", "--val_images", "mine"])
    args.resume = str(trained)
    checkpoint = read_checkpoint(trained)
    resolved = resolve_for_resume(args, checkpoint, {"val_ann", "val_images"}, main.flag_actions())
    assert resolved.coco_path is None and resolved.val_ann == "mine.json"
    resolved = resolve_for_resume(args, checkpoint, set(), main.flag_actions())
    assert resolved.coco_path == checkpoint["args"]["coco_path"]


@pytest.mark.parametrize("drawn", [True, False])
def test_a_model_of_drawn_shapes_reads_own_data_as_coco(data, trained, tmp_path, drawn):
    checkpoint = read_checkpoint(trained)
    checkpoint["args"]["dataset_file"] = "shapes"
    path = data if drawn else tmp_path
    args = main.get_args_parser().parse_args(["--coco_path", str(path)])
    args.resume = str(trained)
    resolved = resolve_for_resume(args, checkpoint, {"coco_path"}, main.flag_actions())
    assert resolved.dataset_file == ("shapes" if drawn else "coco")


def test_the_scales_of_drawn_images_are_in_the_checkpoint(data, tmp_path):
    flags = [flag for flag in FLAGS if flag not in ("--scales", "64")] + ["--backbone", SHALLOW]
    shapes = ["--dataset_file", "shapes", "--coco_path", str(data), "--epochs", "1"]
    assert main.run([*flags, *shapes, "--output_dir", str(tmp_path)]) == 0
    assert max(read_checkpoint(tmp_path / "checkpoint.pth")["args"]["scales"]) == 64


# ---- --finetune and --frozen_weights


def finetuned(data, trained, folder, *flags):
    flags = [*HERE, "--finetune", trained, "--epochs", "1", "--output_dir", folder, *flags]
    assert bare_run(data, *flags) == 0
    return read_checkpoint(folder / "checkpoint.pth")


def test_finetuning_builds_the_architecture_of_the_checkpoint(data, trained, tmp_path, capsys):
    scales = ["--scales", "64"]  # of the new run: not taken
    checkpoint = finetuned(data, trained, tmp_path, *scales)
    before = read_checkpoint(trained)
    shapes = {name: value.shape for name, value in before["model"].items()}
    assert {name: value.shape for name, value in checkpoint["model"].items()} == shapes
    assert f"{len(shapes)} of {len(shapes)} tensors of the model loaded" in capsys.readouterr().out
    assert checkpoint["args"]["nheads"] == 4 and checkpoint["args"]["pre_norm"]
    assert checkpoint["args"]["max_size"] == 1333 and checkpoint["args"]["bbox_loss_coef"] == 5


def test_finetuning_from_a_file_without_flags_goes_by_its_shapes(data, trained_resnet18, tmp_path):
    bare = tmp_path / "bare.pth"
    torch.save(read_checkpoint(trained_resnet18)["model"], bare)
    flags = ["--scales", "64", "--nheads", "4", "--lr_backbone", "0"]
    args = finetuned(data, bare, tmp_path / "out", *flags)["args"]
    assert (args["backbone"], args["hidden_dim"], args["pre_norm"]) == ("resnet18", 32, True)


def test_a_given_architecture_wins_and_its_backbone_starts_from_imagenet(
    data, trained_resnet18, tmp_path, monkeypatch, capsys
):
    imagenet = {k: torch.full_like(v, 0.01) for k, v in resnet34().state_dict().items()}
    asked = []
    monkeypatch.setattr(
        backbone, "_fetch_imagenet_weights", lambda name: asked.append(name) or imagenet
    )
    flags = ["--finetune", trained_resnet18, "--epochs", "1", "--output_dir", tmp_path]
    flags += ["--scales", "64", "--lr_backbone", "0"]
    assert bare_run(data, *flags, "--backbone", "resnet34") == 0
    model = read_checkpoint(tmp_path / "checkpoint.pth")["model"]
    body = {k: v for k, v in model.items() if k.startswith(backbone.BODY)}
    assert asked == ["resnet34"] and len(body) == 180
    assert all((value == 0.01).all() for value in body.values())
    output = capsys.readouterr().out
    assert "a different backbone than --backbone resnet34" in output and "input_proj" not in output


def test_the_weights_of_a_larger_resnet_are_not_cut_to_a_smaller_one(data, tmp_path):
    """ResNet-18's keys are all in ResNet-34, with the same shapes."""
    frozen = ["--lr_backbone", "0", "--scales", "64"]
    flags = ["--epochs", "1", "--backbone", "resnet34", "--output_dir", tmp_path / "a"]
    assert run(data, *flags, *frozen) == 0
    large = tmp_path / "a" / "checkpoint.pth"
    small = finetuned(data, large, tmp_path / "b", "--backbone", "resnet18", *frozen)
    name = backbone.BODY + "conv1.weight"  # of the frozen stem
    assert not torch.equal(small["model"][name], read_checkpoint(large)["model"][name])


def test_masks_on_frozen_weights_take_the_detector_s_architecture(data, trained, tmp_path, capsys):
    flags = ["--frozen_weights", trained, "--masks", "--epochs", "1"]
    assert bare_run(data, *flags, "--scales", "64", "--output_dir", tmp_path) == 0
    assert read_checkpoint(tmp_path / "checkpoint.pth")["args"]["nheads"] == 4
    status = bare_run(data, *flags, "--nheads", "2", "--output_dir", "")
    assert_one_line(capsys, status, "--nheads 2", str(trained), "--nheads 4")


@pytest.mark.parametrize(
    ("name", "value", "typed"),
    [
        ("nheads", 8, "--nheads 8"),
        ("dilation", True, "--dilation"),
        ("dilation", False, "no --dilation"),
        ("aux_loss", False, "--no_aux_loss"),
        ("scales", [64, 96], "--scales 64 96"),
    ],
)
def test_flags_are_shown_as_they_are_typed(name, value, typed):
    assert as_flag(name, value) == typed


def test_flags_that_are_something_else_are_refused():
    args = argparse.Namespace(resume="x.pth")
    with pytest.raises(UserError, match=r"x\.pth: its 'args' are not flags but of type int"):
        resolve_for_resume(args, {"args": 3}, (), main.flag_actions())


# ---- what a review found


def resolved(trained, *argv, given, **changed):
    args = main.get_args_parser().parse_args(["--resume", str(trained), *map(str, argv)])
    checkpoint = read_checkpoint(trained)
    checkpoint["args"] |= changed
    return resolve_for_resume(args, checkpoint, given, main.flag_actions())


def test_a_mistyped_path_is_not_drawn_to(trained, tmp_path):
    args = resolved(
        trained, "--coco_path", tmp_path / "typo", given={"coco_path"}, dataset_file="shapes"
    )
    assert args.dataset_file == "coco"


def test_own_validation_files_are_not_read_as_shapes(trained):
    flags = ["--val_images", "mine", "--val_ann", "mine.json"]
    args = resolved(trained, *flags, given={"val_images", "val_ann"}, dataset_file="shapes")
    assert args.dataset_file == "coco"


@pytest.mark.parametrize("has_maps", [True, False])
def test_panoptic_data_of_a_single_folder_needs_one_path(trained, tmp_path, has_maps):
    if has_maps:
        (tmp_path / "annotations").mkdir()
        (tmp_path / "annotations" / "panoptic_val2017.json").write_text("{}")
    saved = {"dataset_file": "coco_panoptic", "coco_panoptic_path": "/maps"}
    args = resolved(trained, "--coco_path", tmp_path, given={"coco_path"}, **saved)
    assert args.dataset_file == "coco_panoptic"
    assert args.coco_panoptic_path == (str(tmp_path) if has_maps else "/maps")


def test_a_script_keeps_its_training_flags_and_its_own_attributes(trained):
    args = main.get_args_parser().parse_args([])
    args.alpha, args.lr = 3, 0.5
    start = Start(resume=LoadedCheckpoint(str(trained), read_checkpoint(trained)))
    found = resolve_flags(args, start, None, main.flag_actions())
    assert (found.nheads, found.scales, found.max_size) == (4, [64], 90)
    assert (found.epochs, found.bbox_loss_coef, found.alpha, found.lr) == (300, 5, 3, 0.5)


def test_finetuning_reports_a_given_flag_that_shapes_do_not_show(data, trained, tmp_path, capsys):
    finetuned(data, trained, tmp_path, "--scales", "64", "--nheads", "8")
    assert f"--nheads: 4 in {trained}, now 8" in capsys.readouterr().out


def test_frozen_weights_report_a_better_average(data, trained, tmp_path, capsys):
    checkpoint = read_checkpoint(trained)
    torch.save(
        {**checkpoint, "best_weights": "ema", "ema": checkpoint["model"]}, tmp_path / "b.pth"
    )
    flags = ["--frozen_weights", tmp_path / "b.pth", "--masks", "--epochs", "1", "--scales", "64"]
    assert bare_run(data, *flags, "--output_dir", "") == 0
    assert "averaged (EMA) weights scored better" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, ("focal", True)), ({"cls_loss": "ce"}, ("ce", False)), ({"iou_targets": False}, None)],
)
def test_finetuning_keeps_the_kind_of_scores(trained, given, expected):
    args = main.get_args_parser().parse_args(["--finetune", str(trained)])
    vars(args).update(given)
    checkpoint = read_checkpoint(trained)
    checkpoint["args"] |= {"cls_loss": "focal", "iou_targets": True}
    args = resolve_for_new_run(args, "finetune", checkpoint, set(given), main.flag_actions())
    assert (args.cls_loss, args.iou_targets) == (expected or ("focal", False))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 3),
        ({"overlap_penalty": 1.0}, 1),
        ({"cls_loss": "ce"}, 0),
        ({"query_design": "learned"}, 0),
    ],
)
def test_finetuning_keeps_the_penalty_of_overlaps_if_it_fits(trained, given, expected):
    args = main.get_args_parser().parse_args(["--finetune", str(trained)])
    vars(args).update(given)
    checkpoint = read_checkpoint(trained)
    design = {"query_design": "anchor", "cls_loss": "focal", "overlap_penalty": 3.0}
    checkpoint["args"] |= design
    args = resolve_for_new_run(args, "finetune", checkpoint, set(given), main.flag_actions())
    assert args.overlap_penalty == expected


def test_anchors_with_flags_that_lack_the_loss(trained):
    """As in `export.source`: the focal loss, as in all recipes."""
    checkpoint = read_checkpoint(trained)
    del checkpoint["args"]["cls_loss"]
    checkpoint["model"]["content_embed.weight"] = torch.zeros(92, 32)
    for flag in ("resume", "finetune"):
        args = main.get_args_parser().parse_args([f"--{flag}", str(trained)])
        actions = main.flag_actions()
        if flag == "resume":
            args = resolve_for_resume(args, checkpoint, (), actions)
        else:
            args = resolve_for_new_run(args, flag, checkpoint, (), actions)
        assert args.cls_loss == "focal"


@pytest.mark.parametrize("flag", ["--resume", "--finetune"])
def test_released_files_are_known_by_their_names(flag, trained, tmp_path, capsys):
    weights = {"model": read_checkpoint(trained)["model"]}

    def dilation_of(name, *argv):
        args = main.get_args_parser().parse_args([flag, f"/x/{name}", *argv])
        given = {word.removeprefix("--") for word in argv}
        if flag == "--resume":
            return resolve_for_resume(args, weights, given, main.flag_actions()).dilation
        return resolve_for_new_run(args, "finetune", weights, given, main.flag_actions()).dilation

    assert dilation_of(RELEASED_MODELS["detr_resnet50_dc5"].file) is True
    assert dilation_of(RELEASED_MODELS["detr_resnet50"].file) is False
    assert "does not store" not in capsys.readouterr().out
    assert dilation_of("own.pth") is False
    assert "/x/own.pth does not store whether it is a DC5 model" in capsys.readouterr().out
    assert dilation_of("own.pth", "--dilation") is True
    if flag == "--resume":
        with pytest.raises(UserError, match=r"--dilation: .* was trained with no --dilation"):
            dilation_of(RELEASED_MODELS["detr_resnet50"].file, "--dilation")


def test_random_weights_are_reported_once(data, tmp_path, capsys):
    assert run(data, "--eval", "--auto_resume", "--output_dir", tmp_path) == 0
    assert capsys.readouterr().out.count("evaluating random weights") == 1
