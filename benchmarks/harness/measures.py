"""What a benchmark measures of a call: time, memory, processor time. Smaller is better."""

import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

Variant = Callable[[], Any]


class Measure(NamedTuple):
    """A quantity, and how to measure it.

    Attributes:
        unit: unit of the numbers.
        run: calls a variant; returns its result and the measured number.
        has_warm_up: whether the number of a variant's first call is discarded.
    """

    unit: str
    run: Callable[[Variant], tuple[Any, float]]
    has_warm_up: bool = False


def _milliseconds(variant: Variant) -> tuple[Any, float]:
    start = time.perf_counter()
    result = variant()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, (time.perf_counter() - start) * 1e3


def _peak_cpu_memory(variant: Variant) -> tuple[Any, float]:
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(
        activities=activities, profile_memory=True, acc_events=True
    ) as profile:
        result = variant()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = [e for e in events if e.get("name") == "[memory]" and e["args"]["Device Type"] == 0]
    allocated = peak = 0
    for event in sorted(changes, key=lambda e: e["ts"]):
        allocated += event["args"]["Bytes"]
        peak = max(peak, allocated)
    return result, peak / 2**20


def _peak_cuda_memory(variant: Variant) -> tuple[Any, float]:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = variant()
    return result, (torch.cuda.max_memory_allocated() - before) / 2**20


def resident_mib(field: str = "VmRSS") -> float:
    """Resident memory of this process in MiB: ``VmRSS`` now, ``VmHWM`` its peak. Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def _child_memory(variant: Variant) -> tuple[Any, float]:
    """Call a picklable variant in a fresh process; returns the growth of its peak memory."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_growth_of_peak, (variant,))


def _growth_of_peak(variant: Variant) -> tuple[Any, float]:
    before = resident_mib()
    result = variant()
    return result, resident_mib("VmHWM") - before


def _child_processor_seconds(variant: Variant) -> tuple[Any, float]:
    """Processor seconds of the processes that a variant starts and waits for."""
    before = _processor_seconds(resource.RUSAGE_CHILDREN)
    result = variant()
    return result, _processor_seconds(resource.RUSAGE_CHILDREN) - before


def _processor_milliseconds(variant: Variant) -> tuple[Any, float]:
    before = _processor_seconds(resource.RUSAGE_SELF)
    result = variant()
    return result, (_processor_seconds(resource.RUSAGE_SELF) - before) * 1e3


def _processor_seconds(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


TIME = Measure("ms", _milliseconds, has_warm_up=True)
PROCESSOR_TIME = Measure("ms of processor time", _processor_milliseconds, has_warm_up=True)
TIME_OF_LONG_CALLS = Measure("ms", _milliseconds)  # without a warm-up
CHILD_MEMORY = Measure("MiB", _child_memory)
CHILD_CPU = Measure("s", _child_processor_seconds)


def peak_memory(device: str) -> Measure:
    """Peak of the memory that PyTorch allocates during a call, in addition to what it holds."""
    return Measure("MiB", _peak_cuda_memory if device == "cuda" else _peak_cpu_memory)


def returned(unit: str) -> Measure:
    """The number that the variant returns; results are not compared."""
    return Measure(unit, lambda variant: (None, variant()))
