"""The logger with a bar: the same statistics as the plain logger, other output."""

import math

import pytest
import torch

from tests.terminals import Terminal, drawn_lines, screen
from util.metric_logger import MetricLogger
from util.terminal import bar
from util.terminal.bar_logger import BarLogger

LOSSES = ("loss", "loss_ce", "loss_bbox", "loss_giou", "loss_ce_0", "class_error_unscaled")


@pytest.fixture(autouse=True)
def every_step_is_drawn(monkeypatch):
    monkeypatch.setattr(bar, "_SECONDS_BETWEEN_DRAWINGS", 0)
    monkeypatch.setattr(bar, "_SECONDS_BETWEEN_READINGS", 0)


def loop(logger, values, first=0):
    """Train on two images per step."""
    logger.show_latest(lr="{value:.6f}", class_error="{value:.2f}")
    for value in logger.log_every(
        [("images", [1, 2])] * len(values), 10, "Epoch: [0]", first=first
    ):
        assert value[0] == "images"
        number = values.pop(0)
        losses = {name: torch.tensor(number) for name in LOSSES}
        logger.update(**losses, class_error=torch.tensor(number), lr=1e-4)
    logger.synchronize_between_processes()
    logger.print_averages()
    return logger


def test_statistics_equal_those_of_the_plain_logger(capsys):
    values = [1.0, math.nan, 3.5, 2.25]
    with Terminal() as terminal:
        short = loop(BarLogger("epoch 0", recent=True), list(values))
    terminal.text()
    assert short.state_dict() == loop(MetricLogger("  "), list(values)).state_dict()


def test_bar_and_line_of_averages():
    with Terminal(columns=101) as terminal:
        loop(BarLogger("epoch 0", True, lambda left, whole: 7380), [float(i) for i in range(40)])
    text = terminal.text()
    lines = drawn_lines(text)
    last = next(line for line in lines if line.startswith("epoch 0 100%"))
    assert "loss 29.5" in last and "err 30%" in last and "/2h03" in last  # the last 20 steps
    (line,) = [line for line in screen(text) if line]
    assert line.startswith("epoch 0 loss 19.5 class 19.5 box 19.5 GIoU 19.5 err 20% lr 1e-4 in ")
    assert max(map(len, lines)) <= 100


def test_an_evaluation_shows_means_of_all_its_steps():
    with Terminal() as terminal:
        loop(BarLogger("validation"), [float(i) for i in range(40)])
    lines = drawn_lines(terminal.text())
    assert "loss 19.5" in next(line for line in lines if line.startswith("validation 100%"))


def test_a_step_that_is_not_finite_is_no_observation():
    with Terminal() as terminal:
        loop(BarLogger("epoch 0", True), [math.nan, math.nan])
    assert "epoch 0 loss nan class nan" in terminal.text()


def test_a_resumed_epoch_starts_where_it_stopped():
    with Terminal() as terminal:
        loop(BarLogger("epoch 0", True), [1.0, 1.0], first=2)
    shares = [line[8:12] for line in drawn_lines(terminal.text()) if "%" in line[8:12]]
    assert shares == [" 75%", "100%"]


def test_an_error_in_the_loop_leaves_a_clean_terminal():
    with Terminal() as terminal:
        logger = BarLogger("epoch 0")
        with pytest.raises(KeyError):
            for _ in logger.log_every([1, 2], 10):
                logger.update(loss=1.0)
                raise KeyError
        logger.close()
        logger.close()
        print("error: …")
    assert screen(terminal.text()) == ["error: …"]


def test_redirected_it_prints_lines(capsys):
    loop(BarLogger("epoch 0", True), [1.0] * 12)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" class")[0] for line in lines] == [
        *("epoch 0 1/12 loss 1.00", "epoch 0 11/12 loss 1.00", "epoch 0 12/12 loss 1.00"),
        "epoch 0 loss 1.00",
    ]
