"""A case of a benchmark: variants that do the same work, the original's algorithm first."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness.measures import TIME, Measure


@dataclass(frozen=True)
class Settings:
    """Settings of all benchmarks of a run.

    Attributes:
        quick: tiny sizes; checks that the benchmarks work, the numbers mean nothing.
        device: ``cpu`` or ``cuda``.
    """

    quick: bool = False
    device: str = "cpu"


def largest_difference(expected: Any, found: Any) -> float:
    """Largest difference of two results.

    Args:
        expected: tensor, array, number, or a dict, list or tuple of results; None counts as equal
            to None.
        found: result of the same structure.

    Returns:
        the largest absolute difference; within a tensor it is divided by the largest absolute value
        of ``expected`` if that is above 1. Infinite if a value is finite in one result only.

    Raises:
        ValueError: if keys, lengths or shapes differ.
    """
    if isinstance(expected, Mapping):
        if expected.keys() != found.keys():
            raise ValueError(f"different keys: {sorted(expected)} and {sorted(found)}")
        return max((largest_difference(expected[k], found[k]) for k in expected), default=0.0)
    if isinstance(expected, list | tuple):
        if len(expected) != len(found):
            raise ValueError(f"different lengths: {len(expected)} and {len(found)}")
        pairs = zip(expected, found, strict=True)
        return max((largest_difference(*pair) for pair in pairs), default=0.0)
    if expected is None or found is None:
        return 0.0 if expected is found else math.inf
    return _difference(_as_float64(expected), _as_float64(found))


def _as_float64(value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().to("cpu", torch.float64).numpy()
    return np.asarray(value, dtype=np.float64)


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    if expected.shape != found.shape:
        raise ValueError(f"different shapes: {expected.shape} and {found.shape}")
    if not expected.size:
        return 0.0
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], found[~finite], equal_nan=True):
        return math.inf
    scale = max(1.0, np.abs(expected[finite]).max(initial=0.0))
    difference = np.abs(expected[finite] - found[finite]).max(initial=0.0) / scale
    return float(difference) if np.isfinite(difference) else math.inf


def gradient_difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Norm of the difference of all gradients together, divided by their norm.

    Single values may differ more: rounding changes the sign of some inputs of a ReLU.
    """
    pairs = zip(expected, found, strict=True)
    difference = math.hypot(*((a - b).norm().item() for a, b in pairs))
    return difference / math.hypot(*(a.norm().item() for a in expected))


@dataclass(frozen=True)
class Case:
    """A case: rows of the table, one per variant after the baseline.

    Attributes:
        name: sizes and model, such as ``R50, 1 x 3 x 800 x 1066``.
        variants: functions by name, the baseline first. Each returns its result.
        rounds: measured calls of each variant.
        tolerance: largest allowed difference from the baseline's result, for all variants or by
            name; infinite: the difference is shown but not checked.
        measure: what is measured.
        threads: number of threads of PyTorch; None: unchanged.
        compare: called with the baseline's and another result; returns their difference.
    """

    name: str
    variants: Mapping[str, Callable[[], Any]]
    rounds: int = 7
    tolerance: float | Mapping[str, float] = 1e-4
    measure: Measure = TIME
    threads: int | None = None
    compare: Callable[[Any, Any], float] = largest_difference

    def tolerance_of(self, variant: str) -> float:
        """Largest allowed difference of a variant from the baseline."""
        if isinstance(self.tolerance, Mapping):
            return self.tolerance[variant]
        return self.tolerance


def without_bf16(case: Case) -> Case:
    """A case without its variants in bfloat16, which take minutes where that is not fast."""
    kept = {
        name: run
        for name, run in case.variants.items()
        if "bf16" not in name and "bfloat16" not in name
    }
    return replace(case, variants=kept)
