"""Running statistics against naive statistics."""

import math
import random
import statistics

import pytest
import torch

from util.meters import SmoothedValue


@pytest.mark.parametrize("window_size", [1, 4, 20])
def test_statistics_match_a_list(window_size):
    rng = random.Random(window_size)
    meter = SmoothedValue(window_size=window_size)
    observed, weights = [], []
    for step in range(50):
        observed.append(rng.uniform(-1, 1))
        weights.append(1 + step % 3)
        meter.update(torch.tensor(observed[-1], dtype=torch.float64), n=weights[-1])
        last = observed[-window_size:]
        total = sum(v * w for v, w in zip(observed, weights, strict=True))
        assert meter.median == statistics.median_low(last)
        assert meter.avg == pytest.approx(statistics.mean(last), abs=1e-12)
        assert meter.max == max(last)
        assert meter.value == last[-1]
        assert meter.count == sum(weights)
        assert meter.total == pytest.approx(total, abs=1e-12)
        assert meter.global_avg == pytest.approx(total / sum(weights), abs=1e-12)


def test_reading_late_gives_the_same_as_reading_at_once():
    at_once, late = SmoothedValue(window_size=3), SmoothedValue(window_size=3)
    for number in (0.1, 7, -2.5, 3):
        for meter in (at_once, late):
            meter.update(torch.tensor(number, dtype=torch.float64))
        str(at_once)
    assert str(late) == str(at_once)
    assert (late.count, late.total, late.max) == (at_once.count, at_once.total, at_once.max)


def test_nan_is_no_observation():
    meter = SmoothedValue()
    for value in (1.0, math.nan, torch.tensor(math.nan), torch.tensor(3.0), math.nan):
        meter.update(value)
    assert (meter.count, meter.total, meter.value, meter.avg, meter.max) == (2, 4, 3, 2, 3)
    assert meter.global_avg == 2


def test_infinity_is_an_observation():
    meter = SmoothedValue()
    meter.update(torch.tensor(math.inf))
    assert meter.global_avg == math.inf


def test_without_observation_everything_is_nan():
    meter = SmoothedValue(fmt="{median} {avg} {global_avg} {max} {value}")
    assert str(meter) == "nan nan nan nan nan"
    assert (meter.count, meter.total) == (0, 0)


@pytest.mark.parametrize(
    ("fmt", "text"), [(None, "0.1250 (0.1250)"), ("{value:.6f}", "0.125000"), ("{max:.1f}", "0.1")]
)
def test_format(fmt, text):
    meter = SmoothedValue(window_size=1, fmt=fmt)
    meter.update(0.125)
    assert str(meter) == text


def test_an_update_takes_one_number():
    meter = SmoothedValue()
    meter.update(torch.tensor([[2.0]]))
    assert meter.value == 2
    with pytest.raises(ValueError, match=r"one number per update, not shape \(2,\)"):
        meter.update(torch.zeros(2))


def test_keeps_no_graph_alive():
    weight = torch.ones((), requires_grad=True)
    meter = SmoothedValue()
    meter.update(weight * 2)
    assert not any(value.requires_grad for value, _ in meter._pending)
    assert meter.value == 2


def test_the_number_of_pending_values_is_bounded():
    meter = SmoothedValue()
    for _ in range(2500):
        meter.update(torch.ones(()))
    assert len(meter._pending) < 1000
    assert meter.count == 2500
