"""Time two variants in alternating rounds within one process."""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def benchmark_parser(module_doc: str, rounds: int) -> argparse.ArgumentParser:
    """Create a parser with ``--rounds``; its description is the first line of a docstring."""
    parser = argparse.ArgumentParser(description=module_doc.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="calls of each variant")
    return parser


def print_setup(rounds: int) -> None:
    """Print the version of PyTorch, the number of threads and the number of rounds."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds")


def compare_times(variants: Mapping[str, Callable[[], Any]], rounds: int) -> str:
    """Time two variants in alternating rounds.

    Args:
        variants: two functions by name, the baseline first.
        rounds: number of calls of each function.

    Returns:
        a line with the median milliseconds of both, and their ratio (baseline / other).
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            start = time.perf_counter()
            variant()
            seconds[name].append(time.perf_counter() - start)
    ms = {name: statistics.median(times) * 1e3 for name, times in seconds.items()}
    baseline, other = ms.values()
    times = ", ".join(f"{name} {value:.1f} ms" for name, value in ms.items())
    return f"{times}, ratio {baseline / other:.2f}"
