"""Non-finite steps: found over micro-batches and ranks, and never applied."""

import math

import pytest
import torch
from torch import nn

from engine import _clip_gradients
from util.optimizer import update_weights
from util.step_watch import StepRecord, StepWatch, reduce_step


def record_of(loss, error):
    log = {"loss": torch.tensor(loss), "class_error": torch.tensor(error)}
    return StepRecord(0, 0, None, [], 1.0, log, {})


def test_averages_are_over_what_was_observed():
    records = [record_of(1.0, math.nan), record_of(2.0, 30.0), record_of(6.0, 50.0)]
    reduced, nonfinite, stop = reduce_step(records, torch.tensor(1.0), wants_to_stop=False)
    assert float(reduced["loss"]) == pytest.approx(3) and float(reduced["class_error"]) == 40
    assert not nonfinite and not stop
    nowhere, nonfinite, _ = reduce_step([record_of(1.0, math.nan)], torch.tensor(1.0), False)
    assert float(nowhere["loss"]) == 1 and math.isnan(nowhere["class_error"]) and not nonfinite


@pytest.mark.parametrize(
    ("losses", "norm"), [([1.0, math.nan], 1.0), ([math.inf, 1.0], 1.0), ([1.0, 1.0], math.nan)]
)
def test_a_bad_batch_makes_the_step_bad(losses, norm):
    records = [record_of(loss, 10.0) for loss in losses]
    reduced, nonfinite, stop = reduce_step(records, torch.tensor(norm), wants_to_stop=True)
    assert nonfinite and stop
    assert all(math.isnan(value) for value in reduced.values())


def test_flags_are_handled_once_and_a_request_to_stop_is_kept():
    skipped = []
    watch = StepWatch(torch.device("cpu"), skipped.append)
    record = record_of(1.0, 10.0)
    yes, no = torch.tensor(True), torch.tensor(False)
    watch.read_flags()
    watch.send_flags(yes, no, [record])
    assert skipped == [] and not watch.stop_agreed
    for _ in range(2):  # before a checkpoint, and in the next step
        watch.read_flags()
        assert skipped == [[record]] and not watch.stop_agreed
    for stop in (yes, no):
        watch.send_flags(no, stop, [record])
        watch.read_flags()
        assert watch.stop_agreed
    assert skipped == [[record]]


def step_of(fused, skip, scaler, clipped=True):
    """A step with finite gradients of ones: the weights after it, from ones."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], fused=fused, weight_decay=0)
    scaler.scale(weight.sum()).backward()
    if clipped:
        _clip_gradients(nn.ParameterList([weight]), optimizer, 0, scaler)
    update_weights(optimizer, scaler, torch.tensor(skip))
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
    scaler.scale(weight.sum() * math.nan).backward()
    norm = _clip_gradients(nn.ParameterList([weight]), optimizer, 0.1, scaler)
    assert bool(norm.isfinite()) == seen
    update_weights(optimizer, scaler, ~norm.isfinite())
    assert torch.equal(weight, torch.ones(2))
