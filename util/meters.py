"""Running statistics of a series of numbers, read from the device on demand.

Recording a value does not synchronize with the device: tensors are stored and read later, with one
transfer for all meters that are read together. NaN means "no observation" (the class error of a
batch without objects) and is excluded from all statistics.
"""

import math
import statistics
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from util.distributed.processes import all_gather

Number: TypeAlias = float | Tensor

# Limits the device memory of unread values.
_MAX_PENDING = 1000


class SmoothedValue:
    """Statistics of a series of values, over a window of the last values and over all values.

    Args:
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
            fetch_pending([self])

    def synchronize_between_processes(self) -> None:
        """Sum `count` and `total` over all ranks. Collective. The window stays local."""
        fetch_pending([self])
        states = all_gather((self._count, self._total))
        self.set_totals(states)

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
        fetch_pending([self])
        return self._count

    @property
    def total(self) -> float:
        """Sum of all observations."""
        fetch_pending([self])
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
        fetch_pending([self])
        return self._window

    def _observe(self, value: float, n: int) -> None:
        if not math.isnan(value):
            self._window.append(value)
            self._count += n
            self._total += value * n

    def state_dict(self) -> dict[str, Any]:
        """Window, total and count, as plain numbers."""
        fetch_pending([self])
        return {"window": list(self._window), "total": self._total, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self._window.extend(map(float, state["window"]))
        self._total, self._count = float(state["total"]), int(state["count"])

    def set_totals(self, states: Iterable[tuple[int, float]]) -> None:
        """Set `count` and `total` to the sums of the counts and totals of all ranks."""
        counts, totals = zip(*states, strict=True)
        self._count, self._total = sum(counts), math.fsum(totals)


def fetch_pending(meters: Iterable[SmoothedValue]) -> None:
    """Copy the pending values of all ``meters`` to the host, together."""
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
