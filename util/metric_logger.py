"""Running statistics of a training or evaluation loop, and their log lines.

Recording a value does not synchronize with the device: tensors are stored and read on demand, with
one transfer for all meters of a logger. NaN means "no observation" (the class error of a batch
without objects) and is excluded from all statistics.
"""

import math
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from util.distributed.processes import all_gather, get_world_size

T = TypeVar("T")
Number: TypeAlias = float | Tensor

# Limits the device memory of unread values.
_MAX_PENDING = 1000


class SmoothedValue:
    """Statistics of a series of values, over a window of the last values and over all values.

    Args:
        window_size: number of values in the window.
        fmt: format of ``str()``, with ``median``, ``avg``, ``global_avg``, ``max`` and ``value``.
    """

    def __init__(self, window_size: int = 20, fmt: str | None = None) -> None:
        self.fmt = fmt if fmt is not None else "{median:.4f} ({global_avg:.4f})"
        self._window: deque[float] = deque(maxlen=window_size)
        self._total = 0.0
        self._count = 0
        self._pending: list[tuple[Number, int]] = []

    def update(self, value: Number, n: int = 1) -> None:
        """Record a value.

        Args:
            value: a number, or a tensor of one element that is not changed in place afterwards.
            n: weight of the value in `global_avg`.

        Raises:
            ValueError: the tensor does not have one element.
        """
        if not isinstance(value, Tensor):
            value = float(value)
        elif value.numel() != 1:
            raise ValueError(f"a meter takes one number per update, not shape {tuple(value.shape)}")
        else:
            value = value.detach().reshape(())
        self._pending.append((value, n))
        if len(self._pending) >= _MAX_PENDING:
            _settle([self])

    def synchronize_between_processes(self) -> None:
        """Sum `count` and `total` over all ranks. Collective. The window stays local."""
        _settle([self])
        states = all_gather((self._count, self._total))
        self._set_totals(states)

    @property
    def median(self) -> float:
        """Median of the window; the lower of two middle values."""
        window = self._read_window()
        return statistics.median_low(window) if window else math.nan

    @property
    def avg(self) -> float:
        """Mean of the window."""
        window = self._read_window()
        return math.fsum(window) / len(window) if window else math.nan

    @property
    def global_avg(self) -> float:
        """Mean of all observations; NaN if there are none."""
        return self.total / self._count if self.count else math.nan

    @property
    def max(self) -> float:
        """Largest value of the window."""
        return max(self._read_window(), default=math.nan)

    @property
    def value(self) -> float:
        """Last observed value."""
        window = self._read_window()
        return window[-1] if window else math.nan

    @property
    def count(self) -> int:
        """Number of observations."""
        _settle([self])
        return self._count

    @property
    def total(self) -> float:
        """Sum of all observations."""
        _settle([self])
        return self._total

    def __str__(self) -> str:
        return self.fmt.format(
            median=self.median,
            avg=self.avg,
            global_avg=self.global_avg,
            max=self.max,
            value=self.value,
        )

    def _read_window(self) -> deque[float]:
        _settle([self])
        return self._window

    def _observe(self, value: float, n: int) -> None:
        if not math.isnan(value):
            self._window.append(value)
            self._count += n
            self._total += value * n

    def state_dict(self) -> dict[str, Any]:
        """Window, total and count, as plain numbers."""
        _settle([self])
        return {"window": list(self._window), "total": self._total, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self._window.extend(map(float, state["window"]))
        self._total, self._count = float(state["total"]), int(state["count"])

    def _set_totals(self, states: Iterable[tuple[int, float]]) -> None:
        counts, totals = zip(*states, strict=True)
        self._count, self._total = sum(counts), math.fsum(totals)


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

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """State of every meter, as plain numbers."""
        _settle(self.meters.values())
        return {name: meter.state_dict() for name, meter in self.meters.items()}

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        """Restore the result of `state_dict`."""
        for name, meter in state.items():
            self.meters[name].load_state_dict(meter)

    def synchronize_between_processes(self) -> None:
        """Sum counts and totals of all meters over all ranks, with one collective.

        A rank may lack meters that others have, if its share of the data was empty.
        """
        _settle(self.meters.values())
        mine = {name: (meter.count, meter.total) for name, meter in self.meters.items()}
        everywhere = all_gather(mine)
        for name in dict.fromkeys(name for states in everywhere for name in states):
            self.meters[name]._set_totals(states[name] for states in everywhere if name in states)

    def log_every(
        self,
        iterable: Iterable[T],
        print_freq: int,
        header: str | None = None,
        batch_size: int | None = None,
        first: int = 0,
    ) -> Iterator[T]:
        """Yield the items of ``iterable`` and print a log line for some of them.

        A line has the index of the item, the remaining time, all meters, the seconds per step and
        the seconds spent waiting for data, the peak GPU memory in MiB, and the images per second
        over all ranks.

        Args:
            iterable: usually a data loader; its length may be unknown.
            print_freq: print a line every ``print_freq`` items, and for the last item.
            header: start of each line.
            batch_size: images per item; by default the number of targets in an
                ``(images, targets)`` pair.
            first: index of the first item, in a loop that is continued.
        """
        header = header or ""
        length = _length(iterable)
        length = None if length is None else length + first
        clock = _LoopClock(length)
        for index, item in enumerate(clock.timed(iterable), start=first):
            yield item
            clock.end_step(_count_images(item) if batch_size is None else batch_size)
            if index % print_freq == 0 or index + 1 == length:
                entries = [header, *clock.progress(index), *self._entries(), *clock.speed()]
                print(self.delimiter.join(entries), flush=True)
        print(f"{header} Total time: {clock.summary()}", flush=True)

    def __str__(self) -> str:
        return self.delimiter.join(self._entries())

    def _entries(self) -> list[str]:
        _settle(self.meters.values())
        return [f"{name}: {meter}" for name, meter in self.meters.items()]

    def __getattr__(self, name: str) -> SmoothedValue:
        meters: dict[str, SmoothedValue] = self.__dict__.get("meters", {})
        if name in meters:
            return meters[name]
        raise AttributeError(f"{type(self).__name__} has neither an attribute nor a meter {name!r}")


class _LoopClock:
    """Measures the steps of a loop."""

    def __init__(self, length: int | None) -> None:
        self._length = length
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

    def progress(self, index: int) -> list[str]:
        """Index and remaining time; ``?`` if the length is unknown."""
        if self._length is None:
            return [f"[{index}/?]", "eta: ?"]
        width = len(str(self._length))
        seconds_left = self._step_time.global_avg * (self._length - index - 1)
        return [f"[{index:{width}d}/{self._length}]", f"eta: {_format_duration(seconds_left)}"]

    def speed(self) -> list[str]:
        """Seconds per step, peak memory and images per second, as far as known."""
        entries = [f"time: {self._step_time}", f"data: {self._data_time}"]
        if torch.cuda.is_initialized():
            entries.append(f"max mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}")
        images_per_second = self._num_images.avg * get_world_size() / max(self._step_time.avg, 1e-9)
        if not math.isnan(images_per_second):
            entries.append(f"img/s: {images_per_second:.1f}")
        return entries

    def summary(self) -> str:
        """Time since the start, in total and per step."""
        seconds = time.perf_counter() - self._started
        return f"{_format_duration(seconds)} ({seconds / max(self._steps, 1):.4f} s / it)"


def _settle(meters: Iterable[SmoothedValue]) -> None:
    """Read the pending values of all ``meters`` together."""
    meters = list(meters)
    pending = [(meter, value, n) for meter in meters for value, n in meter._pending]
    numbers = _read([value for _, value, _ in pending])
    for (meter, _, n), number in zip(pending, numbers, strict=True):
        meter._observe(number, n)
    for meter in meters:
        meter._pending.clear()


def _read(values: Sequence[Number]) -> list[float]:
    """Copy numbers to the host, with one transfer per device and dtype."""
    numbers = [math.nan if isinstance(value, Tensor) else value for value in values]
    groups: defaultdict[tuple[torch.device, torch.dtype], dict[int, Tensor]] = defaultdict(dict)
    for position, value in enumerate(values):
        if isinstance(value, Tensor):
            groups[value.device, value.dtype][position] = value
    for group in groups.values():
        on_host = torch.stack(list(group.values())).tolist()  # synchronizes with the device
        for position, number in zip(group, on_host, strict=True):
            numbers[position] = float(number)
    return numbers


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
