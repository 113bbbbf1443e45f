"""The progress bar on a pseudo-terminal: width, resizing, messages above it."""

import contextlib
import logging
import sys

import pytest

from tests.terminals import Terminal, drawn_lines, screen
from util.terminal import bar as bar_module
from util.terminal.bar import ProgressBar
from util.terminal.step_line import StepValues

VALUES = StepValues(
    loss=12.345,
    parts={"class": 1.2, "box": 0.553, "GIoU": 0.984},
    class_error=43.2,
    lr=1e-4,
    images_per_second=12.34,
    seconds_left=(62, 7380),
)


@pytest.fixture(autouse=True)
def every_step_is_drawn(monkeypatch):
    monkeypatch.setattr(bar_module, "_SECONDS_BETWEEN_DRAWINGS", 0)
    monkeypatch.setattr(bar_module, "_SECONDS_BETWEEN_READINGS", 0)


def shown(total, steps, columns=101):
    """Text written to a terminal in some steps."""
    with Terminal(columns) as terminal:
        bar = ProgressBar("epoch 3", total, 10)
        for done in steps:
            bar.show(done, lambda: VALUES)
        bar.close()
    return terminal.text()


def test_a_step_takes_one_line_of_at_most_100_characters():
    text = shown(20, range(1, 21))
    lines = drawn_lines(text)
    assert max(map(len, lines)) <= 100
    assert lines[10].startswith("epoch 3  50%|") and "█" in lines[10]
    assert lines[10].endswith(
        "| loss 12.3 class 1.20 box 0.55 GIoU 0.98 err 43% lr 1e-4 12.3 img/s ETA 1m02/2h03"
    )
    assert screen(text) == [""] and "\n" not in text


@pytest.mark.parametrize("columns", [12, 20, 40, 60, 80, 300])
def test_a_line_never_fills_a_narrow_terminal(columns):
    lines = drawn_lines(shown(20, [5], columns))
    assert max(map(len, lines)) <= min(columns - 1, 100)


def test_the_width_follows_the_terminal():
    with Terminal() as terminal:
        bar = ProgressBar("epoch 3", 20, 10)
        for done, columns in enumerate((101, 60, 90), start=1):
            terminal.resize(columns)
            bar.show(done, lambda: VALUES)
        bar.close()
    lines = [line.rstrip() for line in drawn_lines(terminal.text())]
    assert len(lines[1]) > 90 and len(lines[2]) < 60 < len(lines[3]) < 90


def test_messages_appear_above_the_bar():
    with Terminal(columns=200) as terminal:
        bar = ProgressBar("epoch 3", 3, 10)
        bar.show(1, lambda: VALUES)
        print("a", "message")
        bar.show(2, lambda: VALUES)
        print("an error", file=sys.stderr)
        logging.lastResort.emit(logging.makeLogRecord({"msg": "a warning"}))
        sys.stdout.write("half a line")
        bar.show(3, lambda: VALUES)
        bar.close()
        print(" and its rest")
        assert sys.stdout is terminal.stream and sys.stderr is terminal.stream
    lines = screen(terminal.text(), columns=200)
    assert [line for line in lines if line] == [
        *("a message", "an error", "a warning", "half a line and its rest")
    ]


def test_a_continued_loop_starts_where_it_stopped():
    lines = drawn_lines(shown(20, [16]))
    assert any(line.startswith("epoch 3  80%") for line in lines)


def test_a_loop_of_unknown_length_counts():
    lines = drawn_lines(shown(None, [7]))
    assert any(line.startswith("epoch 3 7 loss 12.3") for line in lines)


def test_step_values_are_read_rarely(monkeypatch):
    monkeypatch.setattr(bar_module, "_SECONDS_BETWEEN_READINGS", 1000)
    readings = []
    with Terminal() as terminal:
        bar = ProgressBar("epoch 3", 50, 10)
        for done in range(1, 51):
            bar.show(done, lambda: readings.append("read") or VALUES)
        bar.close()
    terminal.text()
    assert readings == ["read"] * 2  # after the first step and the last


def test_stderr_in_a_file_is_not_redirected(tmp_path):
    errors = (tmp_path / "errors.txt").open("w")
    with Terminal() as terminal, errors, contextlib.redirect_stderr(errors):
        bar = ProgressBar("epoch 3", 20, 10)
        bar.show(1, lambda: VALUES)
        print("an error", file=sys.stderr)
        bar.close()
    assert "an error" not in terminal.text()
    assert (tmp_path / "errors.txt").read_text() == "an error\n"


def test_a_file_gets_a_line_for_some_steps(capsys):
    bar = ProgressBar("epoch 3", 25, 10)
    for done in range(1, 26):
        bar.show(done, lambda: VALUES)
    bar.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" loss")[0] for line in lines] == [
        f"epoch 3 {done}/25" for done in (1, 11, 21, 25)
    ]
    assert max(map(len, lines)) <= 100
