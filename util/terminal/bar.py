"""A progress bar in the last line of a terminal, and messages above it."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from tqdm import tqdm

from util.terminal.step_line import StepValues, step_line

MAX_WIDTH = 100
_DEFAULT_COLUMNS = 80
_SECONDS_BETWEEN_DRAWINGS = 0.2
_SECONDS_BETWEEN_READINGS = 1.0
_MIN_BAR = 6  # characters, with its frame


class ProgressBar:
    """A progress bar with values of the latest step; in a file or a pipe, one line every few steps.

    While the bar is open, everything that is printed to stdout and stderr appears above it.

    Args:
        total: number of steps; None: unknown.
        lines_every: in a file or a pipe: number of steps between two lines.
    """

    def __init__(self, title: str, total: int | None, lines_every: int = 10) -> None:
        self._title, self._total, self._lines_every = title, total, lines_every
        self._stream = sys.stdout
        self._values: StepValues | None = None
        self._drawn = self._read = -math.inf
        self._redirections = contextlib.ExitStack()
        self._bar = self._open() if self._stream.isatty() else None

    def _open(self) -> tqdm:
        bar = Tqdm(
            total=self._total,
            file=self._stream,
            leave=False,
            bar_format=self._title,
            ncols=_terminal_width(self._stream),
        )
        for stream, redirect in (
            (sys.stdout, contextlib.redirect_stdout),
            (sys.stderr, contextlib.redirect_stderr),
        ):
            above: Any = _AboveBar(stream, self)
            self._redirections.enter_context(redirect(above))
            self._redirections.callback(above.write_rest)
        return bar

    def show(self, done: int, values: Callable[[], StepValues]) -> None:
        """Show the number of steps done, about five times per second, and the values of a step.

        Args:
            done: number of steps, with steps of the epoch before an interruption.
            values: called about once per second and after the last step, since it reads tensors.
        """
        is_last = done == self._total
        if self._bar is None:
            if (done - 1) % self._lines_every == 0 or is_last:
                head = f"{self._title} {done}/{self._total or '?'} "
                print(head + step_line(values(), MAX_WIDTH - len(head)), flush=True)
            return
        now, self._bar.n = time.monotonic(), done
        if now - self._read >= _SECONDS_BETWEEN_READINGS or is_last:
            self._read, self._values = now, values()
        if now - self._drawn >= _SECONDS_BETWEEN_DRAWINGS or is_last:
            self._drawn = now
            self.draw()

    def draw(self) -> None:
        """Draw the line again, as wide as the terminal is now."""
        if self._bar is None:
            return
        width = _terminal_width(self._stream)
        count = "{n}" if self._total is None else "{percentage:3.0f}%"
        room = width - len(self._title) - len(" 100% ")
        text = "" if self._values is None else step_line(self._values, room)
        has_bar = self._total is not None and room - len(text) >= _MIN_BAR
        middle = "|{bar}| " if has_bar else " "
        self._bar.bar_format = f"{self._title} {count}{middle}{text}"
        self._bar.ncols = width
        self._bar.refresh()

    def erase(self) -> None:
        """Erase the line, until it is drawn again."""
        if self._bar is not None:
            self._bar.clear()

    def close(self) -> None:
        """Erase the line for good, and end the redirection of stdout and stderr."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()
        self._redirections.close()


def _terminal_width(stream: TextIO) -> int:
    """Length of the longest line that is written to a terminal, in characters."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # not a terminal of the system
        columns = 0
    # A character in the last column makes some terminals start a new line.
    return min((columns or _DEFAULT_COLUMNS) - 1, MAX_WIDTH)


class Tqdm(tqdm):
    """tqdm without its monitor thread, because DataLoader workers are forked from this process."""

    monitor_interval = 0


class _AboveBar:
    """A stream whose lines are written above a bar."""

    def __init__(self, stream: TextIO, bar: ProgressBar) -> None:
        self._stream, self._bar, self._rest = stream, bar, ""

    def write(self, text: str) -> int:
        """Write complete lines above the bar; keep the beginning of the next line."""
        lines, newline, self._rest = (self._rest + text).rpartition("\n")
        if newline:
            self._bar.erase()
            self._stream.write(lines + newline)
            self._stream.flush()
            self._bar.draw()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several strings."""
        for line in lines:
            self.write(line)

    def write_rest(self) -> None:
        """Write the beginning of a line that was not ended."""
        self._stream.write(self._rest)
        self._rest = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
