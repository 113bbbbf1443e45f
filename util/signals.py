"""Requests to stop that come as signals: noticed at once, obeyed when a step is done."""

import os
import signal
from types import FrameType
from typing import Any

# Ctrl-C; kill and pre-emption; what Slurm sends on request before the time is up.
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequested(Exception):  # noqa: N818  # not an error
    """A run has ended early because a signal asked for it.

    Args:
        signum: the signal.
        message: what was saved, and how to go on.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum

    @property
    def exit_status(self) -> int:
        """128 plus the number of the signal, as shells have it: 130, 143 or 138."""
        return 128 + self.signum


class StopSignals:
    """While open, keeps signals that ask for an end, so that a step can be finished and saved.

    A second Ctrl-C interrupts at once. Outside the main thread nothing is kept.

    Attributes:
        received: number of the first signal, or SIGUSR1 once that has come, which puts a job of
            Slurm into its queue again; None if there was none.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        try:
            for signum in _STOPPING:
                self._before[signum] = signal.signal(signum, self._note)
        except ValueError:  # not the main thread
            self._before.clear()
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.received is None or signum == signal.SIGUSR1:  # pre-emption may send SIGTERM too
            self.received = signum
        elif signum == signal.SIGINT:
            raise KeyboardInterrupt


def ignore_stop_signals(worker_id: int) -> None:
    """Let a data-loading worker outlive a signal that its whole process group gets.

    Its main process decides when it ends. A second SIGTERM, as PyTorch sends to a worker that does
    not end by itself, ends it.

    Args:
        worker_id: not used; a data loader passes it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _die_at_the_second)


def _die_at_the_second(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, lambda *_: os._exit(128 + signum))
