"""Measure the variants of a case in turns."""

import contextlib
import math
import os
import statistics
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from benchmarks.harness.case import Case
from util.system.memory import keep_freed_memory


class Row(NamedTuple):
    """Measurements of one variant and of the baseline of its case.

    Attributes:
        case, unit, threads, rounds: fields of the case.
        baseline, variant: names.
        baseline_values, values: measured numbers, one per round.
        difference: of the results.
        tolerance: largest allowed difference.
    """

    case: str
    unit: str
    threads: int
    rounds: int
    baseline: str
    variant: str
    baseline_values: list[float]
    values: list[float]
    difference: float
    tolerance: float

    @property
    def ratio(self) -> float:
        """Median over the rounds of baseline / variant; above 1 is better."""
        return statistics.median(self._ratios)

    @property
    def ratio_range(self) -> tuple[float, float]:
        """First and third quartile of the ratios of the rounds."""
        if len(self._ratios) == 1:
            return self._ratios[0], self._ratios[0]
        quartiles = statistics.quantiles(self._ratios, n=4, method="inclusive")
        return quartiles[0], quartiles[2]

    @property
    def _ratios(self) -> list[float]:
        """One ratio per round: both calls of a round ran under about the same load."""
        pairs = zip(self.baseline_values, self.values, strict=True)
        return [a / b if b else math.inf if a else 1.0 for a, b in pairs]

    @property
    def is_equal(self) -> bool:
        """Whether the results agree within the tolerance."""
        return self.difference <= self.tolerance


def measure(case: Case, rounds: int | None = None) -> list[Row]:
    """Measure all variants of a case in alternating rounds.

    The first call of each variant is compared with the baseline's result. Freed memory is kept, as
    in ``main.py`` and ``predict.py``, except by the baseline: the original uses glibc's defaults.

    Args:
        rounds: overrides the rounds of the case.
    """
    rounds = case.rounds if rounds is None else rounds
    with _threads(case.threads):
        results, values = _first_calls(case)
        while any(len(numbers) < rounds for numbers in values.values()):
            for name in case.variants:
                values[name].append(_call(case, name)[1])
        baseline = next(iter(case.variants))
        return [
            Row(
                case.name,
                case.measure.unit,
                torch.get_num_threads(),
                rounds,
                baseline,
                name,
                values[baseline],
                values[name],
                case.compare(results[baseline], results[name]),
                case.tolerance_of(name),
            )
            for name in case.variants
            if name != baseline
        ]


def _first_calls(case: Case) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Results by variant, and the measured numbers unless the first call is a warm-up."""
    first = {name: _call(case, name) for name in case.variants}
    results = {name: result for name, (result, _) in first.items()}
    values = {name: [] if case.measure.has_warm_up else [v] for name, (_, v) in first.items()}
    return results, values


def _call(case: Case, name: str) -> tuple[Any, float]:
    """Result of a variant, and the measured number."""
    keep_freed_memory(name != next(iter(case.variants)))
    try:
        return case.measure.run(case.variants[name])
    finally:
        keep_freed_memory(False)


@contextlib.contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def private_cache() -> Iterator[None]:
    """Let this process and its children cache annotations in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get("TORCH_HOME")
        os.environ["TORCH_HOME"] = folder
        try:
            yield
        finally:
            del os.environ["TORCH_HOME"]
            os.environ.update({} if before is None else {"TORCH_HOME": before})
