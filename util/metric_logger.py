"""A training or evaluation loop with running averages by name, and its log lines."""

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, Self, TypeVar

import torch

from util.distributed.processes import all_gather, get_world_size
from util.meters import Number, SmoothedValue, fetch_pending

__all__ = ["LoopClock", "MetricLogger", "SmoothedValue"]

T = TypeVar("T")


class MetricLogger:
    """Named meters, created on first use, and a loop that logs them.

    A meter is also an attribute: ``logger.update(loss=0.5)``, then ``logger.loss.global_avg``.

    Args:
        delimiter: separator between the entries of a log line.
    """

    def __init__(self, delimiter: str = "\t") -> None:
        self.meters: defaultdict[str, SmoothedValue] = defaultdict(SmoothedValue)
        self.delimiter = delimiter

    def update(self, **kwargs: Number) -> None:
        """Record one value per name; see `SmoothedValue.update`."""
        for name, value in kwargs.items():
            self.meters[name].update(value)

    def add_meter(self, name: str, meter: SmoothedValue) -> None:
        """Use ``meter`` for ``name``, with its own window and format."""
        self.meters[name] = meter

    def show_latest(self, **formats: str) -> Self:
        """Begin the log lines with the latest values of some meters; returns the logger.

        Args:
            formats: format of each meter by its name, with ``value``.
        """
        for name, fmt in formats.items():
            self.add_meter(name, SmoothedValue(window_size=1, fmt=fmt))
        return self

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """State of every meter, as plain numbers."""
        fetch_pending(self.meters.values())
        return {name: meter.state_dict() for name, meter in self.meters.items()}

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        """Restore the result of `state_dict`."""
        for name, meter in state.items():
            self.meters[name].load_state_dict(meter)

    def synchronize_between_processes(self) -> None:
        """Sum counts and totals of all meters over all ranks, with one collective.

        A rank may lack meters that others have, if its share of the data was empty.
        """
        fetch_pending(self.meters.values())
        mine = {name: (meter.count, meter.total) for name, meter in self.meters.items()}
        everywhere = all_gather(mine)
        for name in dict.fromkeys(name for states in everywhere for name in states):
            self.meters[name].set_totals(states[name] for states in everywhere if name in states)

    def log_every(
        self, iterable: Iterable[T], print_freq: int, header: str | None = None, first: int = 0
    ) -> Iterator[T]:
        """Yield the items of ``iterable`` and print a log line for some of them.

        A line has the index of the item, the remaining time, all meters, the seconds per step, the
        seconds spent waiting for data, and the peak GPU memory in MiB. If the items are ``(images,
        targets)`` pairs, it also has the images per second over all ranks.

        Args:
            iterable: usually a data loader; its length may be unknown.
            print_freq: print a line every ``print_freq`` items, and for the last item.
            header: start of each line.
            first: index of the first item, in a loop that is continued.
        """
        length = _length(iterable)
        length = None if length is None else length + first
        clock = LoopClock(length)
        self.start_loop(clock, print_freq)
        for index, item in enumerate(clock.timed(iterable), start=first):
            yield item
            clock.end_step(_count_images(item))
            self.end_step(header or "", index, print_freq, clock)
        self.end_loop(header or "", clock)

    def start_loop(self, clock: "LoopClock", print_freq: int) -> None:
        """Called by `log_every` before the first step. Does nothing; for subclasses."""

    def end_step(self, header: str, index: int, print_freq: int, clock: "LoopClock") -> None:
        """Called by `log_every` after each step. Prints the log line, if one is due."""
        if index % print_freq == 0 or index + 1 == clock.length:
            entries = [header, *clock.progress(index), *self._entries(), *clock.speed()]
            print(self.delimiter.join(entries), flush=True)

    def end_loop(self, header: str, clock: "LoopClock") -> None:
        """Called by `log_every` after the last step. Prints the time that the loop took."""
        print(f"{header} Total time: {clock.summary()}", flush=True)

    def print_averages(self) -> None:
        """Print the averages over all ranks, after `synchronize_between_processes`."""
        print("Averaged stats:", self)

    def finish(self) -> dict[str, float]:
        """Merge the meters of all ranks; print and return the averages by name. Collective."""
        self.synchronize_between_processes()
        self.print_averages()
        return {name: meter.global_avg for name, meter in self.meters.items()}

    def __str__(self) -> str:
        return self.delimiter.join(self._entries())

    def _entries(self) -> list[str]:
        fetch_pending(self.meters.values())
        return [f"{name}: {meter}" for name, meter in self.meters.items()]

    def __getattr__(self, name: str) -> SmoothedValue:
        meters: dict[str, SmoothedValue] = self.__dict__.get("meters", {})
        if name in meters:
            return meters[name]
        raise AttributeError(f"{type(self).__name__} has neither an attribute nor a meter {name!r}")


class LoopClock:
    """Measures the steps of a loop.

    Args:
        length: number of steps, with steps before an interruption; None: unknown.
    """

    def __init__(self, length: int | None) -> None:
        self.length = length
        self._steps = 0
        self._step_time = SmoothedValue(fmt="{avg:.4f}")
        self._data_time = SmoothedValue(fmt="{avg:.4f}")
        self._num_images = SmoothedValue()
        self._started = self._step_started = time.perf_counter()

    def timed(self, iterable: Iterable[T]) -> Iterator[T]:
        """Yield the items and record the time spent waiting for each."""
        for item in iterable:
            self._data_time.update(time.perf_counter() - self._step_started)
            yield item

    def end_step(self, num_images: float) -> None:
        """Record the end of a step; NaN for an unknown number of images."""
        now = time.perf_counter()
        self._step_time.update(now - self._step_started)
        self._num_images.update(num_images)
        self._step_started = now
        self._steps += 1

    @property
    def seconds_per_step(self) -> float:
        """Mean over all steps of this loop; NaN before the first has ended."""
        return self._step_time.global_avg

    @property
    def images_per_second(self) -> float:
        """Images of all ranks per second, over the last steps; NaN if unknown."""
        return self._num_images.avg * get_world_size() / max(self._step_time.avg, 1e-9)

    def seconds_left(self, index: int) -> float | None:
        """Estimated seconds from the end of a step to the end of the loop; None: unknown."""
        return None if self.length is None else self.seconds_per_step * (self.length - index - 1)

    def progress(self, index: int) -> list[str]:
        """Index and remaining time; ``?`` if the length is unknown."""
        seconds_left = self.seconds_left(index)
        if seconds_left is None:
            return [f"[{index}/?]", "eta: ?"]
        width = len(str(self.length))
        return [f"[{index:{width}d}/{self.length}]", f"eta: {_format_duration(seconds_left)}"]

    def speed(self) -> list[str]:
        """Seconds per step, and peak memory and images per second if known."""
        entries = [f"time: {self._step_time}", f"data: {self._data_time}"]
        if torch.cuda.is_initialized():
            entries.append(f"max mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}")
        if not math.isnan(self.images_per_second):
            entries.append(f"img/s: {self.images_per_second:.1f}")
        return entries

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    def summary(self) -> str:
        """Time since the start, in total and per step."""
        seconds = self.seconds
        return f"{_format_duration(seconds)} ({seconds / max(self._steps, 1):.4f} s / it)"


def _length(iterable: Iterable[Any]) -> int | None:
    try:
        return len(iterable)  # type: ignore[arg-type]
    except TypeError:  # also for a DataLoader over an iterable dataset
        return None


def _count_images(item: Any) -> float:
    """Number of images in an ``(images, targets)`` pair; NaN for other items."""
    if isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[1], tuple | list):
        return len(item[1])
    return math.nan


def _format_duration(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))
