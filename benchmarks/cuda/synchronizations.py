"""Count how often the host waits for the GPU."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch

_CALLS = ("cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy")
_RANGE = "synchronizations"
_FEW, _MANY = 2, 9  # steps; both are below the interval between log lines


def per_step(train: Callable[[int], Any]) -> float:
    """Synchronizations per training step between log lines, from traces of two runs.

    Args:
        train: runs the given number of steps, with one log line at the first step.
    """
    return (count(lambda: train(_MANY)) - count(lambda: train(_FEW))) / (_MANY - _FEW)


def count(work: Callable[[], Any]) -> int:
    """Number of calls in ``work`` that wait for the GPU, from a profiler trace; 0 without a GPU."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    profiler = torch.profiler.profile(activities=activities, acc_events=True)
    with profiler, torch.profiler.record_function(_RANGE):
        work()
    return count_in(profiler.events() or ())


def count_in(events: Iterable[Any]) -> int:
    """Number of waiting calls within the marked range.

    Args:
        events: profiler events with ``name`` and ``time_range``. The profiler itself synchronizes
            at its start and end, outside the range.
    """
    events = list(events)
    marked = next(event.time_range for event in events if event.name == _RANGE)
    return sum(
        event.name in _CALLS and marked.start <= event.time_range.start <= marked.end
        for event in events
    )


def warned_lines(work: Callable[[], Any]) -> list[str]:
    """Source lines that wait for the GPU, from `torch.cuda.set_sync_debug_mode`; sorted.

    Waiting for an event, as `util.step_watch.StepWatch` does, is not among them. Empty without
    a GPU.
    """
    if not torch.cuda.is_available():
        work()
        return []
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    synchronizing = (w for w in caught if "synchronizing CUDA operation" in str(w.message))
    return sorted({f"{warning.filename}:{warning.lineno}" for warning in synchronizing})
