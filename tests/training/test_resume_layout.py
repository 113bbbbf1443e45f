"""Adam's moments survive a change of the memory layout of convolutions, and of --amp."""

import argparse
import copy

import pytest
import torch
from torch import nn

from tests.drawn_data import drawn_data
from tests.test_main import read_checkpoint
from tests.test_main import run_simple as run
from training import resume
from training.network import prepare_for_training
from training.optimization.optimizer_state import restore_optimizer
from util.optimizer import build_lr_scheduler, build_optimizer


def build(prepared):
    """A convolution and a linear layer, and an optimizer; ``prepared``: as in training."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"backbone": nn.Conv2d(3, 4, 3), "head": nn.Linear(4, 2)})
    if prepared:
        prepare_for_training(model, "off")
    optimizer = build_optimizer(model, 0.1, 0.01, 0.5)
    return model, optimizer, build_lr_scheduler(optimizer, "step", 9, 2, 0.0)


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        features = model["backbone"](torch.rand(2, 3, 6, 6)).mean((2, 3))
        model["head"](features).square().sum().backward()
        optimizer.step()


def unfused(model, saved):
    """AdamW without the fused kernel, which is free of any memory layout."""
    groups = [list(model["head"].parameters()), list(model["backbone"].parameters())]
    optimizer = torch.optim.AdamW([{"params": group} for group in groups], fused=False)
    optimizer.load_state_dict(copy.deepcopy(saved))
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = False, False
    return optimizer


@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False), (True, True)])
def test_updates_after_another_layout_equal_unfused_adamw(before, after):
    model, optimizer, scheduler = build(before)
    train(model, optimizer, 3)
    saved = {"optimizer": optimizer.state_dict(), "lr_scheduler": scheduler.state_dict()}
    saved = copy.deepcopy(saved)
    resumed, own, own_scheduler = build(after)
    reference, _, _ = build(False)
    for other in (resumed, reference):
        other.load_state_dict(model.state_dict())
    restore_optimizer(own, own_scheduler, None, saved, "x.pth")
    moments = own.state_dict()["state"]
    for number, state in saved["optimizer"]["state"].items():
        assert all(torch.equal(moments[number][name], state[name]) for name in state)
    theirs = unfused(reference, saved["optimizer"])
    for each in ((resumed, own), (reference, theirs)):
        torch.manual_seed(1)
        train(*each, 3)
    for a, b in zip(resumed.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


data = drawn_data(num_train=6, num_val=2)


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize(("before", "after"), [("off", "bf16"), ("bf16", "off")])
def test_a_run_goes_on_with_another_amp(data, tmp_path, monkeypatch, before, after, foreign):
    first = ["--epochs", "1", "--amp", before, "--output_dir", tmp_path]
    assert run(data, *first) == 0
    saved = read_checkpoint(tmp_path / "checkpoint.pth")
    if foreign:  # as the original writes it
        keys = ("model", "optimizer", "lr_scheduler", "epoch")
        args = argparse.Namespace(**saved["args"])
        torch.save({**{key: saved[key] for key in keys}, "args": args}, tmp_path / "other.pth")
    checked = []

    def check(optimizer, *rest):
        restore_optimizer(optimizer, *rest)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for number, parameter in enumerate(parameters):
            for name in ("exp_avg", "exp_avg_sq"):
                moment = optimizer.state[parameter][name]
                assert torch.equal(moment, saved["optimizer"]["state"][number][name])
                assert moment.stride() == parameter.stride()
                checked.append(moment.stride())

    monkeypatch.setattr(resume, "restore_optimizer", check)
    source = tmp_path / ("other.pth" if foreign else "checkpoint.pth")
    assert run(data, "--epochs", "2", "--amp", after, "--resume", source) == 0
    assert len(checked) > 100
