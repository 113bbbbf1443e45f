"""Optimizers, learning-rate schedules, and freezing the backbone."""

import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from util.optimizer import (
    build_lr_scheduler,
    build_optimizer,
    num_optimized,
    scaled_rates,
    set_backbone_trained,
    update_weights,
)


def build(kind="adamw"):
    model = nn.ModuleDict({"backbone": nn.Linear(2, 3), "head": nn.Linear(3, 1)})
    model["backbone"].bias.requires_grad_(False)
    return model, build_optimizer(model, 0.1, 0.01, 0.5, kind)


def backward(model, step):
    model.zero_grad()
    model["head"](model["backbone"](torch.full((1, 2), 1.0 + step))).sum().backward()


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


def test_channels_last_weights_get_the_same_update_without_a_copy():
    updated, copies = [], []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(6, 4, 3, 3, generator=generator)
        model = nn.ParameterDict({"weight": weight.contiguous(memory_format=memory_format)})
        optimizer = build_optimizer(model, 0.1, 0.01, 0.5)
        for _ in range(3):
            grad = torch.randn(6, 4, 3, 3, generator=generator)
            model["weight"].grad = grad.contiguous(memory_format=memory_format)
            with torch.autograd.profiler.profile() as used:
                optimizer.step()
        updated.append(model["weight"].detach())
        copies.append([event.name for event in used.function_events].count("aten::clone"))
    assert torch.equal(*updated)
    assert copies[0] == copies[1]


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_adam_and_sgd_follow_their_formulas(kind):
    torch.manual_seed(0)
    model, optimizer = build(kind)
    weights = {"head": model["head"].weight, "backbone": model["backbone"].weight}
    wanted = {name: p.detach().clone() for name, p in weights.items()}
    moments = {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in wanted.items()}
    for step in range(1, 5):
        backward(model, step)
        for name, p in wanted.items():
            lr = {"head": 0.1, "backbone": 0.01}[name]
            gradient = weights[name].grad + 0.5 * p  # weight decay as L2 penalty
            first, second = moments[name]
            if kind == "sgd":
                first.mul_(0.9).add_(gradient)
                p -= lr * first
            else:
                first.mul_(0.9).add_(gradient, alpha=0.1)
                second.mul_(0.999).add_(gradient.square(), alpha=0.001)
                scale = (second / (1 - 0.999**step)).sqrt() + 1e-8
                p -= lr * first / (1 - 0.9**step) / scale
        optimizer.step()
    for name, p in wanted.items():
        assert torch.allclose(weights[name], p, atol=1e-6)


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_a_skipped_first_step_leaves_no_trace(kind):
    results = []
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for skipped_steps in (0, 2):
        torch.manual_seed(0)
        model, optimizer = build(kind)
        before = [p.detach().clone() for p in model.parameters()]
        for step in range(skipped_steps):
            backward(model, 7.0 + step)
            update_weights(optimizer, scaler, skip=torch.tensor(True))
            assert all(map(torch.equal, before, model.parameters()))
        for step in range(3):
            backward(model, step)
            update_weights(optimizer, scaler, skip=torch.tensor(False))
        results.append([p.detach() for p in model.parameters()])
    assert all(map(torch.equal, *results))


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="'rmsprop', expected one of adamw, adam, sgd"):
        build("rmsprop")


def test_scaled_rates_last_for_the_block_only():
    _, optimizer = build()
    with scaled_rates(optimizer, 0.25) as rates:
        assert rates == [group["lr"] for group in optimizer.param_groups] == [0.025, 0.0025]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]
    with pytest.raises(RuntimeError), scaled_rates(optimizer, 0.3):
        raise RuntimeError
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]


def test_a_frozen_backbone_is_neither_updated_nor_decayed_and_joins_later():
    torch.manual_seed(0)
    model, optimizer = build()
    before = [p.detach().clone() for p in model["backbone"].parameters()]
    assert num_optimized(optimizer) == 10
    assert set_backbone_trained(optimizer, False) and not set_backbone_trained(optimizer, False)
    for step in range(2):
        backward(model, step)
        optimizer.step()
    assert all(map(torch.equal, before, model["backbone"].parameters()))
    assert num_optimized(optimizer) == 10
    assert set_backbone_trained(optimizer, True)
    assert not model["backbone"].bias.requires_grad  # was never trained
    backward(model, 2)
    optimizer.step()
    assert not torch.equal(before[0], model["backbone"].weight)
    steps = [float(state["step"]) for state in optimizer.state.values()]
    assert steps == [3, 3, 1]


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


def test_cosine_schedule_to_a_ratio_of_each_rate():
    _, optimizer = build()
    scheduler = build_lr_scheduler(optimizer, "cosine", 4, 200, 0.0, 0.01)
    seen = rates(scheduler, optimizer, 5)
    for group, first in enumerate((0.1, 0.01)):
        last = first / 100
        wanted = [last + (first - last) * (1 + math.cos(math.pi * e / 4)) / 2 for e in range(5)]
        assert [rate[group] for rate in seen] == pytest.approx(wanted)
