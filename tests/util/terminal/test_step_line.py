"""The text about a step at any width."""

import math
from dataclasses import replace

import pytest

from util.terminal.step_line import StepValues, short_duration, short_number, step_line

BOXES = {"class": 1.2, "box": 0.553, "GIoU": 0.984}
VALUES = StepValues(12.345, BOXES, 43.2, 1e-4, 12.34, (62, 7380))
MASKS = replace(VALUES, parts={**BOXES, "mask": 0.123, "dice": 0.874})


def test_everything_is_shown():
    assert step_line(VALUES, 100) == (
        "loss 12.3 class 1.20 box 0.55 GIoU 0.98 err 43% lr 1e-4 12.3 img/s ETA 1m02/2h03"
    )


def test_masks_fit_next_to_a_title_and_a_percentage():
    line = step_line(replace(MASKS, lr=3.5e-5), 100 - len("epoch 299 100% "))
    for entry in ("loss 12", "cls 1.2", "dice .87", "err 43%", "lr 3.5e-5", "12 img/s", "1m/2h"):
        assert entry in line


@pytest.mark.parametrize("values", [VALUES, MASKS, StepValues()], ids=["boxes", "masks", "unknown"])
def test_no_line_is_too_long(values):
    for width in range(101):
        assert len(step_line(values, width)) <= width


def test_the_loss_is_dropped_last():
    lines = [step_line(VALUES, width) for width in (12, 30, 60)]
    assert lines[0] == "loss 12" and lines[1] == "loss 12 err 43% 1m/2h"
    assert "GIoU" in lines[2] and "lr" not in lines[2]


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e9, 0.0])
def test_losses_of_a_diverging_run(loss):
    line = step_line(replace(VALUES, loss=loss, parts=dict.fromkeys(BOXES, loss)), 100)
    assert line.startswith(f"loss {short_number(loss)} class ")


def test_what_is_unknown_is_left_out():
    values = StepValues(loss=1.0, seconds_left=(None, None))
    assert step_line(values, 100) == "loss 1.00 ETA ?/?"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m00"), (3599, "59m59"), (86400, "1d00"), (math.nan, "?")],
)
def test_durations(seconds, text):
    assert short_duration(seconds) == text


def test_numbers_have_a_bounded_length():
    for length in (3, 4):
        for exponent in range(-30, 31, 2):
            assert len(short_number(1.2345 * 10.0**exponent, length)) <= length + 1
