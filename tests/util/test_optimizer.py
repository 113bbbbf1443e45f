"""Parameter groups and learning-rate schedules."""

import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from util.optimizer import build_lr_scheduler, build_optimizer


def build():
    model = nn.ModuleDict({"backbone": nn.Linear(2, 3), "head": nn.Linear(3, 1)})
    model["backbone"].bias.requires_grad_(False)
    return model, build_optimizer(model, 0.1, 0.01, 0.5)


def rates(scheduler, optimizer, epochs):
    seen = []
    for _ in range(epochs):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return seen


def test_groups_cover_all_trainable_parameters_once():
    model, optimizer = build()
    head, backbone = optimizer.param_groups
    assert [id(p) for p in head["params"]] == [id(p) for p in model["head"].parameters()]
    assert [id(p) for p in backbone["params"]] == [id(model["backbone"].weight)]
    assert (head["lr"], backbone["lr"], head["weight_decay"]) == (0.1, 0.01, 0.5)


def test_a_step_equals_unfused_adamw():
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        model, optimizer = build()
        if not fused:
            optimizer = torch.optim.AdamW(
                [{"params": g["params"], "lr": g["lr"]} for g in optimizer.param_groups],
                weight_decay=0.5,
                fused=False,
            )
        for step in range(3):
            optimizer.zero_grad()
            model["head"](model["backbone"](torch.full((1, 2), 1.0 + step))).sum().backward()
            optimizer.step()
        results.append([p.detach() for p in model.parameters()])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_step_schedule():
    _, optimizer = build()
    scheduler = build_lr_scheduler(optimizer, "step", 9, 2, 0.0)
    assert [r[0] for r in rates(scheduler, optimizer, 5)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001]
    )


def test_cosine_schedule():
    _, optimizer = build()
    scheduler = build_lr_scheduler(optimizer, "cosine", 4, 200, 0.001)
    seen = [r[0] for r in rates(scheduler, optimizer, 5)]
    wanted = [0.001 + (0.1 - 0.001) * (1 + math.cos(math.pi * e / 4)) / 2 for e in range(5)]
    assert seen == pytest.approx(wanted)


@pytest.mark.parametrize("lr_min", [0.05, 0.01, 0.5])
def test_cosine_schedule_raises_no_rate(lr_min):
    """The backbone starts at 0.01, the rest at 0.1."""
    _, optimizer = build()
    scheduler = build_lr_scheduler(optimizer, "cosine", 4, 200, lr_min)
    seen = rates(scheduler, optimizer, 5)
    assert scheduler._get_closed_form_lr() == pytest.approx(scheduler.get_last_lr())
    for group, first in enumerate((0.1, 0.01)):
        floor = min(lr_min, first)
        wanted = [floor + (first - floor) * (1 + math.cos(math.pi * e / 4)) / 2 for e in range(5)]
        assert [rate[group] for rate in seen] == pytest.approx(wanted)


def test_cosine_schedule_above_its_floor_keeps_the_bits_of_pytorch():
    seen = []
    for schedule in (
        build_lr_scheduler,
        lambda o, kind, n, drop, low: CosineAnnealingLR(o, n, low),
    ):
        _, optimizer = build()
        seen.append(rates(schedule(optimizer, "cosine", 7, 200, 0.003), optimizer, 8))
    assert seen[0] == seen[1]
