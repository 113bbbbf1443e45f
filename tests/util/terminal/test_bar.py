"""The progress bar on a pseudo-terminal: width, resizing, messages above it."""

import sys
import warnings

import pytest

from tests.terminals import Terminal, drawn_lines, screen
from util.terminal import bar as bar_module
from util.terminal.bar import ProgressBar
from util.terminal.step_line import StepFacts

FACTS = StepFacts(
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


@pytest.fixture
def terminal(monkeypatch):
    made = Terminal(columns=101)
    monkeypatch.setattr(sys, "stdout", made.stream)
    monkeypatch.setattr(sys, "stderr", made.stream)
    return made


def test_a_step_takes_one_line_of_at_most_100_characters(terminal):
    bar = ProgressBar("epoch 3", 20, 0, 10)
    for done in range(1, 21):
        bar.show(done, lambda: FACTS)
    bar.close()
    text = terminal.text()
    lines = drawn_lines(text)
    assert max(map(len, lines)) <= 100
    assert lines[10].startswith("epoch 3  50%|") and "█" in lines[10]
    assert (
        lines[10]
        .rstrip()
        .endswith(
            "| loss 12.3 class 1.20 box 0.55 GIoU 0.98 err 43% lr 1e-4 12.3 img/s ETA 1m02/2h03"
        )
    )
    assert screen(text) == [""] and "\n" not in text


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 300])
def test_a_line_never_fills_a_narrow_terminal(terminal, columns):
    terminal.resize(columns)
    bar = ProgressBar("epoch 3", 20, 0, 10)
    bar.show(5, lambda: FACTS)
    bar.close()
    assert max(map(len, drawn_lines(terminal.text()))) <= min(columns - 1, 100)


def test_the_width_follows_the_terminal(terminal):
    bar = ProgressBar("epoch 3", 20, 0, 10)
    widths = []
    for done, columns in enumerate((101, 60, 90), start=1):
        terminal.resize(columns)
        bar.show(done, lambda: FACTS)
        widths.append(len(bar_module.step_line(FACTS, columns)))
    bar.close()
    lines = [line.rstrip() for line in drawn_lines(terminal.text())]
    assert len(lines[1]) > 90 and len(lines[2]) < 60 < len(lines[3]) < 90


def test_messages_appear_above_the_bar(terminal):
    bar = ProgressBar("epoch 3", 3, 0, 10)
    bar.show(1, lambda: FACTS)
    print("a", "message")
    bar.show(2, lambda: FACTS)
    print("an error", file=sys.stderr)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("odd", stacklevel=1)
    sys.stdout.write("half a line")
    bar.show(3, lambda: FACTS)
    bar.close()
    print(" and its rest")
    assert sys.stdout is terminal.stream and sys.stderr is terminal.stream
    lines = screen(terminal.text())
    assert lines[:2] == ["a message", "an error"] and "UserWarning: odd" in lines[2]
    assert lines[-2:] == ["half a line and its rest", ""] or lines[-1] == "half a line and its rest"


def test_a_continued_loop_starts_where_it_stopped(terminal):
    bar = ProgressBar("epoch 3", 20, 15, 10)
    bar.show(16, lambda: FACTS)
    bar.close()
    assert any(line.startswith("epoch 3  80%") for line in drawn_lines(terminal.text()))


def test_a_loop_of_unknown_length_counts(terminal):
    bar = ProgressBar("epoch 3", None, 0, 10)
    bar.show(7, lambda: FACTS)
    bar.close()
    assert any(line.startswith("epoch 3 7 loss 12.3") for line in drawn_lines(terminal.text()))


def test_facts_are_read_rarely(terminal, monkeypatch):
    monkeypatch.setattr(bar_module, "_SECONDS_BETWEEN_READINGS", 1000)
    readings = []
    bar = ProgressBar("epoch 3", 50, 0, 10)
    for done in range(1, 51):
        bar.show(done, lambda: readings.append(1) or FACTS)
    bar.close()
    assert len(readings) == 2  # the first step and the last


def test_a_file_gets_a_line_for_some_steps(capsys):
    bar = ProgressBar("epoch 3", 25, 0, 10)
    for done in range(1, 26):
        bar.show(done, lambda: FACTS)
    bar.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" loss")[0] for line in lines] == [
        f"epoch 3 {done}/25" for done in (1, 11, 21, 25)
    ]
    assert max(map(len, lines)) <= 100
