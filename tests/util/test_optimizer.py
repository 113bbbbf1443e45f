"""Parameter groups and learning-rate schedules."""

import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from util.optimizer import backward, build_lr_scheduler, build_optimizer, clip, update


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


def step_of(fused, skip, scaler, clipped=True):
    """A step with finite gradients of ones: the weights after it, from ones."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], fused=fused, weight_decay=0)
    backward(weight.sum(), scaler)
    if clipped:
        clip([weight], optimizer, 0, scaler)
    update(optimizer, torch.tensor(skip), scaler)
    assert weight.grad is not None
    return weight.detach(), optimizer.state[weight]


@pytest.mark.parametrize("clipped", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_a_scaler_skips_a_step_whose_gradients_are_finite(fused, clipped):
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
    weight, state = step_of(fused, True, scaler, clipped)
    assert torch.equal(weight, torch.ones(2))
    assert not any(values.any() for values in state.values())
    assert scaler.get_scale() == 4.0  # as after an overflow
    weight, _ = step_of(fused, False, scaler, clipped)
    assert torch.allclose(weight, torch.full((2,), 1 - 1e-3)) and scaler.get_scale() == 8.0


def test_a_scaler_that_is_off_changes_nothing():
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    assert torch.equal(step_of(True, True, scaler)[0], torch.ones(2))
    assert not torch.equal(step_of(True, False, scaler)[0], torch.ones(2))


@pytest.mark.parametrize(("scale", "seen"), [(2.0, True), (1.0, False)])
def test_overflow_is_the_scaler_s_affair_while_it_has_a_scale(scale, seen):
    """A gradient that is not finite at scale 1 did not overflow by scaling."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    backward(weight.sum() * math.nan, scaler)
    norm = clip([weight], optimizer, 0.1, scaler)
    assert bool(norm.isfinite()) == seen
    update(optimizer, ~norm.isfinite(), scaler)
    assert torch.equal(weight, torch.ones(2))
