"""Checkpoints that hold something else than they should: they resume, or are one line."""

import copy
import io
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import main
from training.checkpoint import TrainingState, checkpoint_of, restored_progress
from training.flags.checks import check_flags
from training.flags.saved import resolve_for_resume
from training.optimization.optimizer_state import restore_optimizer
from training.progress import Progress
from training.resume import (
    LoadedCheckpoint,
    Start,
    apply_schedule,
    find_start,
    resume_training,
)
from training.run_files import RunFolder
from util.errors import UserError
from util.metric_logger import MetricLogger
from util.optimizer import build_lr_scheduler, build_optimizer
from util.options import fill_in_new_flags
from util.reproducibility.random_state import random_state

FLAGS = {
    **{"lr": 0.1, "lr_backbone": 0.01, "weight_decay": 0.5, "lr_scheduler": "step"},
    **{"lr_drop": 2, "lr_min": 0.0, "epochs": 9, "resume": "x.pth"},
}
NO_FLAGS = main.get_args_parser().parse_args([])


def build(kind):
    model = nn.ModuleDict({"backbone": nn.Linear(2, 3), "head": nn.Linear(3, 1)})
    optimizer = build_optimizer(model, 0.1, 0.01, 0.5)
    return model, optimizer, build_lr_scheduler(optimizer, kind, 9, 2, 0.0)


def trained(kind):
    model, optimizer, scheduler = build(kind)
    for _ in range(3):
        model["head"](model["backbone"](torch.ones(1, 2))).sum().backward()
        optimizer.step()
        scheduler.step()
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(1))
    progress = Progress(epoch=3, step=3, scores={0: 0.5}, bad_images=["a"])
    state = TrainingState(model, optimizer, scheduler, scaler, progress)
    content = checkpoint_of(state, {**FLAGS, "lr_scheduler": kind}, {})
    names = (
        "model",
        "optimizer",
        "lr_scheduler",
        "scaler",
        "args",
        "epoch",
        "step",
        "rng",
        "progress",
    )
    return {name: content[name] for name in names}


WHOLE = {kind: trained(kind) for kind in ("step", "cosine")}


def paths_in(value, path=()):
    """Every place in nested values."""
    yield path
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_in(entry, (*path, key))


def put(value, path, junk):
    """The values with something else in one place."""
    if not path:
        return junk
    changed = copy.copy(value)
    changed[path[0]] = put(changed[path[0]], path[1:], junk)
    return changed


def resolved(checkpoint):
    """The flags of a run that resumes it and is given none."""
    args = copy.copy(NO_FLAGS)
    args.resume = "x.pth"
    fill_in_new_flags(args)
    args = resolve_for_resume(args, checkpoint, (), main.flag_actions())
    check_flags(args)
    return args


def continued_from(checkpoint):
    """Resume from it and do a step; returns the rates."""
    torch.manual_seed(0)
    args = resolved(checkpoint)
    model, optimizer, scheduler = build(args.lr_scheduler)
    scaler = torch.amp.GradScaler("cpu")
    restore_optimizer(optimizer, scheduler, scaler, checkpoint, "x.pth")
    progress = restored_progress(checkpoint)
    apply_schedule(optimizer, scheduler, vars(args), progress.epoch)
    scaler.scale(model["head"](model["backbone"](torch.ones(1, 2))).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()
    progress.skips_and_replacements()
    state = TrainingState(model, optimizer, scheduler, scaler, progress)
    torch.save(checkpoint_of(state, vars(args), {}), io.BytesIO())
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_one_goes_on(kind):
    saved = [group["lr"] for group in WHOLE[kind]["optimizer"]["param_groups"]]
    rates = continued_from(WHOLE[kind])
    # By step, the second drop comes now.
    assert rates == pytest.approx([0.1 * lr for lr in saved]) if kind == "step" else rates < saved


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_ranks_that_are_new_have_the_statistics_of_the_epoch_too(monkeypatch, rank):
    """The averages of all ranks are merged: else the steps after the start would count twice."""
    logger = MetricLogger()
    logger.update(loss=2.0)
    saved = [{"random": random_state(), "meters": logger.state_dict()} for _ in range(2)]
    monkeypatch.setattr("training.checkpoint.get_rank", lambda: rank)
    progress = restored_progress({**WHOLE["step"], "rng": saved})
    assert progress.meters == logger.state_dict()


def test_a_cosine_run_written_without_the_cap_goes_on_with_it():
    """--lr_min 0.05 had raised the backbone's rate from 0.01 on."""
    raised = copy.deepcopy(WHOLE["cosine"])
    raised["args"]["lr_min"] = raised["lr_scheduler"]["eta_min"] = 0.05
    raised["optimizer"]["param_groups"][1]["lr"] = 0.02
    args = resolved(raised)
    _, optimizer, scheduler = build("cosine")
    restore_optimizer(optimizer, scheduler, None, raised, "x.pth")
    assert apply_schedule(optimizer, scheduler, vars(args), 3)
    first = 0.05 + 0.05 * (1 + math.cos(math.pi / 3)) / 2
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([first, 0.01])
    assert not apply_schedule(optimizer, scheduler, vars(args), 3)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.integers(0, 3).map(torch.ones),
    st.integers(0, 3).map(lambda size: [torch.ones(size, 2)]),
)
PLACES = st.sampled_from(
    [(kind, path) for kind, whole in WHOLE.items() for path in paths_in(whole) if path]
)


@settings(max_examples=400, deadline=None)
@given(PLACES, JUNK)
@example(("step", ("scaler", "growth_interval")), 2**70)
@example(("step", ("scaler", "scale")), 2**70)
def test_junk_in_any_place_resumes_or_is_one_line(place, junk):
    kind, path = place
    try:
        continued_from(put(WHOLE[kind], path, junk))
    except UserError as error:
        assert "\n" not in error.one_line()


@pytest.mark.parametrize("is_own", [True, False])
def test_scores_come_from_the_log_beside_the_checkpoint_alone(tmp_path, is_own):
    """With --overwrite the output folder may have the log of another run."""
    (tmp_path / "log.txt").write_text('{"epoch": 1, "test_coco_eval_bbox": [0.75]}\n')
    path = tmp_path / "x.pth" if is_own else tmp_path.parent / "x.pth"
    model, optimizer, scheduler = build("step")
    state = TrainingState(model, optimizer, scheduler, None, Progress())
    checkpoint = LoadedCheckpoint(str(path), copy.deepcopy(WHOLE["step"]))
    resume_training(state, checkpoint, vars(resolved(WHOLE["step"])), RunFolder(str(tmp_path)))
    assert state.progress.scores == ({0: 0.5, 1: 0.75} if is_own else {0: 0.5})


@pytest.mark.parametrize("marks", [["none", "none"], ["none", "epoch 3, step 9"]])
def test_all_processes_must_find_the_same(tmp_path, monkeypatch, marks):
    monkeypatch.setattr("training.resume.all_gather", lambda mark: marks)
    named = (RunFolder(str(tmp_path)), True, "", "", None)
    if marks[0] == marks[1]:
        assert find_start(*named) == Start()
    else:
        with pytest.raises(UserError, match="rank 0: none; rank 1: epoch 3, step 9"):
            find_start(*named)
