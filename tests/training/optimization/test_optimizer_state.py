"""Optimizers and schedules of the flags; their state is restored, but not of another kind."""

import copy

import pytest
import torch
from torch import nn

from training.flags.arguments import get_args_parser
from training.optimization.optimizer_state import build_optimization, restore_optimizer
from util.errors import UserError
from util.optimizer import build_lr_scheduler, build_optimizer, set_backbone_trained


def build(kind, momentum=0.9):
    torch.manual_seed(0)
    model = nn.ModuleDict({"backbone": nn.Linear(2, 3), "head": nn.Linear(3, 1)})
    optimizer = build_optimizer(model, 0.1, 0.01, 0.5, kind, momentum)
    return model, optimizer, build_lr_scheduler(optimizer, "cosine", 9, 2, 0.0, 0.01)


def train(model, optimizer, scheduler):
    for step in range(3):
        optimizer.zero_grad()
        model["head"](model["backbone"](torch.full((1, 2), 1.0 + step))).sum().backward()
        optimizer.step()
    scheduler.step()


def saved(optimizer, scheduler):
    content = {"optimizer": optimizer.state_dict(), "lr_scheduler": scheduler.state_dict()}
    return copy.deepcopy(content)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_continued_updates_are_the_same_bits(kind, frozen):
    run = build(kind)
    set_backbone_trained(run[1], not frozen)
    train(*run)
    content, weights = saved(*run[1:]), copy.deepcopy(run[0].state_dict())
    resumed = build(kind)
    resumed[0].load_state_dict(weights)
    restore_optimizer(*resumed[1:], None, content, "x.pth")
    for model, optimizer, scheduler in (run, resumed):
        set_backbone_trained(optimizer, True)
        train(model, optimizer, scheduler)
    assert all(map(torch.equal, run[0].parameters(), resumed[0].parameters()))
    assert run[2].get_last_lr() == resumed[2].get_last_lr()


@pytest.mark.parametrize(("before", "after"), [("adamw", "sgd"), ("sgd", "adam")])
def test_another_kind_is_refused_in_one_line(before, after):
    run, other = build(before), build(after)
    train(*run)
    with pytest.raises(UserError, match=r"--resume x\.pth: cannot restore its optimizer") as caught:
        restore_optimizer(*other[1:], None, saved(*run[1:]), "x.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", [None, {"momentum_buffer": None}])
def test_momentum_that_begins_on_resume_starts_at_zero(entry):
    """PyTorch saves no state without momentum, and earlier versions of it an empty one."""
    run, resumed = build("sgd", momentum=0.0), build("sgd")
    train(*run)
    content = saved(*run[1:])
    if entry is not None:
        content["optimizer"]["state"] = dict.fromkeys(range(4), entry)
    restore_optimizer(*resumed[1:], None, content, "x.pth")
    buffers = [state["momentum_buffer"] for state in resumed[1].state.values()]
    assert len(buffers) == 4 and not any(buffer.any() for buffer in buffers)
    resumed[0].load_state_dict(run[0].state_dict())
    train(*resumed)


def test_momentum_that_ends_on_resume_is_left_out():
    run, resumed = build("sgd"), build("sgd", momentum=0.0)
    train(*run)
    restore_optimizer(*resumed[1:], None, saved(*run[1:]), "x.pth")
    train(*resumed)
    assert [group["momentum"] for group in resumed[1].param_groups] == [0.0, 0.0]


def test_the_scale_of_the_losses_goes_on():
    run, resumed = build("adamw"), build("adamw")
    train(*run)
    before, after = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (32.0, 8.0))
    for scaler in (before, after):
        scaler.scale(torch.ones(1))
    before.update(64.0)
    content = saved(*run[1:]) | {"scaler": before.state_dict()}
    restore_optimizer(*resumed[1:], after, content, "x.pth")
    assert after.get_scale() == 64.0 and after.state_dict() == before.state_dict()


@pytest.mark.parametrize(("flags", "momentum"), [([], 0.9), (["--momentum", "0"], 0.0)])
def test_momentum_of_sgd_may_be_zero(flags, momentum):
    model = nn.ModuleDict({"backbone": nn.Linear(2, 3), "head": nn.Linear(3, 1)})
    args = get_args_parser().parse_args(["--device", "cpu", "--optimizer", "sgd", *flags])
    optimizer, _, _ = build_optimization(args, model)
    assert [group["momentum"] for group in optimizer.param_groups] == [momentum] * 2
    buffers = [state["momentum_buffer"] for state in optimizer.state.values()]
    assert len(buffers) == (4 if momentum else 0)  # also for the backbone
    assert not any(buffer.any() for buffer in buffers)
