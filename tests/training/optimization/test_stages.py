"""Runs with a frozen backbone at first, warm-up and rare evaluations, from the command line."""

import math
import signal

import pytest
import torch

import engine
import main
from models.detr import DETR
from tests.drawn_data import drawn_data
from tests.test_main import ROOT, assert_one_line, read_checkpoint, read_log
from tests.test_main import run_simple as run
from tests.training.test_resume import Interrupt, assert_same_runs, crash, kill
from training import evaluation, loop, progress
from training.flags.checks import check_training_flags
from util.errors import UserError
from util.plot_utils import plot_logs

# Two epochs with two steps each, then two with five steps each.
STAGES = ["--epochs", "4", "--lr_drop", "2", "--lr", "1e-3", "--lr_backbone", "1e-3"]
STAGES += ["--freeze_backbone_epochs", "2", "--freeze_batch_size", "4"]
WARM = ["--warmup_steps", "6", "--lr_scheduler", "cosine", "--lr_min_ratio", "0.01"]
RARE = ["--eval_every", "3"]

data = drawn_data(num_train=10, num_val=3)


@pytest.fixture(scope="module", autouse=True)
def scored_by_loss():
    """AP is 0 after so few steps: the loss tells the epochs apart."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (loop, progress):
            patch.setattr(module, "validation_score", lambda stats: 1 / stats["loss"])
        yield


def weights_of(folder, key="model", name="checkpoint.pth"):
    state = read_checkpoint(folder / name)[key]
    backbone = {name: value for name, value in state.items() if "backbone" in name}
    return backbone, {name: value for name, value in state.items() if name not in backbone}


def same(left, right):
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )


# ---- the frozen stage


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_the_frozen_stage_changes_the_rest_only(data, tmp_path, norm, monkeypatch):
    features = []
    decode = DETR.decode
    monkeypatch.setattr(
        DETR,
        "decode",
        lambda self, feature, position: (
            features.append(feature.tensors.requires_grad) or decode(self, feature, position)
        ),
    )
    flags = [*STAGES, "--backbone_norm", norm, "--lr_drop", "1", "--ema_decay", "0.5"]
    assert run(data, *flags, "--output_dir", tmp_path) == 0
    first, second, third, last = (
        weights_of(tmp_path, name=f"checkpoint{epoch:04}.pth") for epoch in range(4)
    )
    assert same(first[0], second[0]) and not same(second[0], third[0])
    assert not same(first[1], second[1]) and not same(third[0], last[0])
    averaged = weights_of(tmp_path, "ema", "checkpoint0001.pth")
    assert same(averaged[0], second[0]) and not same(averaged[1], second[1])
    training = [needed for needed in features if needed or torch.is_grad_enabled()]
    assert True in training and sum(features) == 2 * 5  # batches of the second stage alone
    frozen = [entry.get("backbone_frozen", False) for entry in read_log(tmp_path)]
    assert frozen == [True, True, False, False]
    assert len({entry["n_parameters"] for entry in read_log(tmp_path)}) == 1


def test_the_frozen_stage_equals_training_without_the_backbone(data, tmp_path):
    length = ["--epochs", "2", "--lr", "1e-3", "--batch_size", "4", "--amp", "bf16"]
    assert run(data, *length, "--lr_backbone", "0", "--output_dir", tmp_path / "without") == 0
    length[1] = "3"
    stages = ["--freeze_backbone_epochs", "2", "--lr_drop", "2"]
    assert run(data, *length, *stages, "--output_dir", tmp_path / "stages") == 0
    found = weights_of(tmp_path / "stages", name="checkpoint0001.pth")
    wanted = weights_of(tmp_path / "without")
    assert same(found[0], wanted[0]) and same(found[1], wanted[1])


def test_moments_of_the_backbone_start_when_it_joins(data, tmp_path):
    assert run(data, *STAGES, "--output_dir", tmp_path) == 0
    optimizer = read_checkpoint(tmp_path / "checkpoint0001.pth")["optimizer"]
    head, backbone = (set(group["params"]) for group in optimizer["param_groups"])
    assert set(optimizer["state"]) == head
    optimizer = read_checkpoint(tmp_path / "checkpoint.pth")["optimizer"]
    steps = {number: float(state["step"]) for number, state in optimizer["state"].items()}
    assert {steps[number] for number in head} == {2 * 2 + 2 * 5}
    assert {steps[number] for number in backbone} == {2 * 5}


# ---- exact resume


KINDS = {
    "stages": STAGES,
    "everything": [
        *(*STAGES, *WARM, *RARE, "--accum_steps", "2", "--batch_size", "1"),
        *("--freeze_batch_size", "2", "--backbone_norm", "batch", "--amp", "bf16"),
        *("--ema_decay", "0.9", "--lr_scale_batch"),
    ],
    "sgd": [*STAGES, *WARM, "--optimizer", "sgd", "--momentum", "0.8"],
}


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    """A folder by kind, run when it is first needed."""
    folders = {}

    def run_of(kind):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind)
            assert run(data, *KINDS[kind], "--output_dir", folders[kind]) == 0
        return folders[kind]

    return run_of


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [[1, 2, 3], [4, 6]])
def test_stopped_in_either_stage_and_continued(
    data, uninterrupted, tmp_path, monkeypatch, kind, steps
):
    flags = [*KINDS[kind], "--output_dir", tmp_path, "--auto_resume"]
    for step in steps:
        with monkeypatch.context() as patch:
            Interrupt(patch, loop.Run, "_after_step", step, kill(signal.SIGTERM))
            assert run(data, *flags) == 143
    assert run(data, *flags) == 0
    assert_same_runs(tmp_path, uninterrupted(kind))


@pytest.mark.parametrize(
    ("kind", "owner"),
    [("stages", "evaluate"), *((kind, "append_log") for kind in KINDS), ("sgd", "keep_as_best")],
)
def test_crashed_between_the_stages_and_continued(
    data, uninterrupted, tmp_path, monkeypatch, kind, owner
):
    flags = [*KINDS[kind], "--output_dir", tmp_path, "--auto_resume", "--save_every", "3"]
    holder = evaluation if owner == "evaluate" else loop.RunFolder
    with monkeypatch.context() as patch:
        Interrupt(patch, holder, owner, 2, crash)
        with pytest.raises(RuntimeError, match="lightning"):
            run(data, *flags)
    assert run(data, *flags) == 0
    assert_same_runs(tmp_path, uninterrupted(kind))


def test_crashed_after_the_log_line_of_an_epoch_without_evaluation(data, tmp_path, monkeypatch):
    flags = ["--epochs", "3", "--eval_every", "3", "--output_dir", tmp_path, "--auto_resume"]
    with monkeypatch.context() as patch:
        Interrupt(patch, loop.Run, "_after_step", 6, crash)  # the first step of the second epoch
        with pytest.raises(RuntimeError, match="lightning"):
            run(data, *flags)
    assert run(data, *flags) == 0
    assert [entry["epoch"] for entry in read_log(tmp_path)] == [0, 1, 2]


# ---- rates


@pytest.fixture
def rates(monkeypatch):
    """The learning rates of both groups in every step."""
    seen = []
    update = engine.update_weights

    def watched(optimizer, *args, **kwargs):
        seen.append([group["lr"] for group in optimizer.param_groups])
        update(optimizer, *args, **kwargs)

    monkeypatch.setattr(engine, "update_weights", watched)
    return seen


def test_warm_up_and_cosine_by_a_naive_list(data, tmp_path, rates):
    flags = ["--epochs", "3", "--lr", "1e-3", "--lr_backbone", "1e-4", *WARM]
    assert run(data, *flags, "--output_dir", tmp_path) == 0
    wanted = []
    for step in range(15):
        cosine = (1 + math.cos(math.pi * (step // 5) / 3)) / 2
        factor = min(1, (step + 1) / 6) * (0.01 + 0.99 * cosine)
        wanted.append([1e-3 * factor, 1e-4 * factor])
    assert [pair for step in rates for pair in step] == pytest.approx(
        [pair for step in wanted for pair in step]
    )
    logged = [entry["train_lr"] for entry in read_log(tmp_path)]
    assert logged == pytest.approx([sum(w[0] for w in wanted[e : e + 5]) / 5 for e in (0, 5, 10)])
    groups = read_checkpoint(tmp_path / "checkpoint.pth")["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx([1e-5, 1e-6])


def test_rates_follow_the_batch_size_of_each_stage(data, rates):
    assert run(data, *STAGES, "--lr_drop", "9", "--lr_scale_batch", "--batch_size", "5") == 0
    assert [rate for rate, _ in rates] == pytest.approx([1e-3 * 4 / 16] * 4 + [1e-3 * 5 / 16] * 4)


# ---- evaluation


def test_epochs_without_evaluation(data, tmp_path, capsys):
    flags = ["--epochs", "5", "--eval_every", "3", "--ema_decay", "0.9"]
    assert run(data, *flags, "--output_dir", tmp_path) == 0
    entries = read_log(tmp_path)
    assert [entry["epoch"] for entry in entries] == [0, 1, 2, 3, 4]
    for epoch, entry in enumerate(entries):
        tested = any(name.startswith(("test_", "ema_")) for name in entry)
        assert tested == (epoch in (2, 4)) and "train_loss" in entry
    assert read_checkpoint(tmp_path / "best.pth")["epoch"] in (2, 4)
    assert capsys.readouterr().out.count("EMA weights:") == 2
    assert run(data, "--resume", tmp_path / "checkpoint.pth", "--epochs", "6") == 0
    pytest.importorskip("matplotlib").use("Agg")
    _, axes = plot_logs(tmp_path, ["loss", "mAP"])
    lines = [list(line.get_xdata()) for line in axes[0].get_lines()]
    assert lines == [[0, 1, 2, 3, 4], [2, 4]]


def test_patience_counts_evaluations(data, tmp_path, monkeypatch, capsys):
    scores = iter([0.2, 0.5, 0.4, 0.5, 0.9])
    monkeypatch.setattr(loop, "validation_score", lambda stats: next(scores))
    flags = ["--epochs", "19", "--patience", "2", "--eval_every", "2", "--output_dir", tmp_path]
    assert run(data, *flags) == 0
    assert [entry["epoch"] for entry in read_log(tmp_path)] == list(range(8))
    assert "--patience 2): no better validation score since epoch 3" in capsys.readouterr().out
    assert read_checkpoint(tmp_path / "best.pth")["epoch"] == 3


# ---- flags


def test_no_frozen_epochs_with_a_recipe_that_has_some():
    recipe = f"@{ROOT / 'configs/finetune.txt'}"
    args = main.parse_command_line([recipe, "--freeze_backbone_epochs", "0"]).args
    check_training_flags(args)
    assert args.freeze_batch_size is None
    assert main.parse_command_line([recipe]).args.freeze_batch_size == 8


def test_no_frozen_epochs_with_a_checkpoint_that_has_some(data, uninterrupted, tmp_path):
    start = ["--resume", uninterrupted("stages") / "checkpoint0001.pth", "--epochs", "3"]
    start += ["--freeze_backbone_epochs", "0", "--output_dir", tmp_path]
    assert run(data, *start) == 0
    flags = read_checkpoint(tmp_path / "checkpoint.pth")["args"]
    assert flags["freeze_backbone_epochs"] == 0 and flags["freeze_batch_size"] is None


MISTAKES = {
    "momentum of Adam": (["--momentum", "0.9"], "--optimizer adamw has no momentum"),
    "momentum of 1": (["--momentum", "1", "--optimizer", "sgd"], "must be below 1"),
    "minimum of step": (["--lr_min", "1e-6"], "requires --lr_scheduler cosine; add it, or use"),
    "ratio of step": (["--lr_min_ratio", "0.1"], "requires --lr_scheduler cosine"),
    "two minima": (["--lr_min", "1e-6", *WARM], "set one of them to 0"),
    "batch size alone": (["--freeze_batch_size", "4"], "requires --freeze_backbone_epochs"),
    "frozen anyway": (
        ["--freeze_backbone_epochs", "2", "--lr_backbone", "0"],
        "with --lr_backbone 0 the backbone is frozen in all epochs",
    ),
    "no step": (
        ["--freeze_batch_size", "11", "--freeze_backbone_epochs", "2"],
        "--freeze_batch_size 11: the data has only 10 training images",
    ),
    "never evaluated": (["--eval_every", "0"], "must be at least 1"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_flags_that_mean_nothing_are_refused(data, capsys, name):
    flags, words = MISTAKES[name]
    assert_one_line(capsys, run(data, "--epochs", "1", *flags), flags[0], words)


def test_an_old_checkpoint_may_have_a_minimum_without_cosine():
    args = main.get_args_parser().parse_args(["--lr_min", "1e-6", "--resume", "old.pth"])
    check_training_flags(args)
    args.resume = ""
    with pytest.raises(UserError, match="requires --lr_scheduler cosine"):
        check_training_flags(args)


def test_the_optimizer_is_that_of_the_checkpoint(data, uninterrupted, tmp_path, capsys):
    resume = ["--resume", uninterrupted("sgd") / "checkpoint.pth", "--epochs", "5"]
    resume += ["--output_dir", tmp_path]
    status = run(data, *resume, "--optimizer", "adamw")
    assert_one_line(capsys, status, "--optimizer adamw", "was trained with --optimizer sgd")
    assert run(data, *resume, "--momentum", "0.5") == 0
    output = capsys.readouterr().out
    assert "--optimizer sgd" in output and "--momentum: 0.8 in the checkpoint, now 0.5" in output
    groups = read_checkpoint(tmp_path / "checkpoint.pth")["optimizer"]["param_groups"]
    assert [group["momentum"] for group in groups] == [0.5, 0.5]


def test_a_checkpoint_without_the_flag_was_trained_with_adamw(
    data, uninterrupted, tmp_path, capsys
):
    checkpoint = read_checkpoint(uninterrupted("stages") / "checkpoint.pth")
    del checkpoint["args"]["optimizer"]
    torch.save(checkpoint, tmp_path / "old.pth")
    resume = ["--resume", tmp_path / "old.pth", "--optimizer", "sgd"]
    assert_one_line(capsys, run(data, *resume), "was trained with --optimizer adamw")
    assert run(data, *resume, "--eval") == 0
