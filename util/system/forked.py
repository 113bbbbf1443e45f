"""Computations divided among forked processes, one per core."""

import contextlib
import itertools
import os
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from util.cli.signals import ignore_stop_signals

T = TypeVar("T")


def map_on_all_cores(
    work: Callable[[range], list[T]], length: int, min_per_process: int
) -> list[T]:
    """Call ``work`` on consecutive parts of ``range(length)``, and concatenate the results.

    Each part is computed in a forked process; a single part, or all on systems other than Linux,
    in this process.

    Args:
        work: called with a range; must not use torch or a GPU. Its result is pickled.
        min_per_process: minimum number of items per process.

    Raises:
        Exception: what ``work`` raises in any process.
        RuntimeError: if a process dies.
    """
    num_parts = min(_num_cores(), length // min_per_process)
    if num_parts < 2 or sys.platform != "linux":
        return work(range(length))
    bounds = [length * part // num_parts for part in range(num_parts + 1)]
    parts = [range(start, stop) for start, stop in itertools.pairwise(bounds)]
    tasks = [_Task(work, part) for part in parts]
    try:
        return [item for task in tasks for item in task.result()]
    finally:
        for task in tasks:
            task.end()


def _num_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


class _Task:
    """A part computed in a forked process."""

    def __init__(self, work: Callable[[range], list[Any]], part: range) -> None:
        context = get_context("fork")
        self._receiver, sender = context.Pipe(duplex=False)
        arguments = (work, part, self._receiver, sender)
        self._process = context.Process(target=_compute, args=arguments, daemon=True)
        self._process.start()
        sender.close()  # so that receiving fails if the process dies

    def result(self) -> list[Any]:
        """Wait for the result."""
        try:
            outcome = self._receiver.recv()
        except EOFError as error:
            self._process.join()
            status = self._process.exitcode
            raise RuntimeError(f"a process died with exit status {status}") from error
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def end(self) -> None:
        """End the process, whether it has finished or not."""
        self._process.kill()
        self._process.join()
        self._receiver.close()


def _compute(
    work: Callable[[range], list[Any]], part: range, receiver: Connection, sender: Connection
) -> None:
    """Send the result of a part, or its exception."""
    receiver.close()  # so that sending does not wait for a main process that has died
    ignore_stop_signals(0)
    try:
        outcome: Any = work(part)
    except Exception as error:
        outcome = error
    with contextlib.suppress(BrokenPipeError):  # the main process has died
        sender.send(outcome)
