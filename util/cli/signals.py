"""Signals that stop training between two steps."""

import os
import signal
from types import FrameType
from typing import Any

# Ctrl-C; kill or preemption; Slurm's warning before the time limit; the end of the terminal.
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_STAYING_IGNORED = (signal.SIGINT, signal.SIGHUP)


class StopRequested(Exception):  # noqa: N818  # not an error
    """A signal ended a run early.

    Args:
        message: the saved checkpoint, and how to continue.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum

    @property
    def exit_status(self) -> int:
        """128 plus the signal number, as in shells: 130, 143, 138 or 129."""
        return 128 + self.signum


class StopSignals:
    """Context manager that records stop signals, so that the run can save before it stops.

    A second Ctrl-C raises KeyboardInterrupt. Outside the main thread no signal is recorded. SIGINT
    and SIGHUP stay ignored if the process was started to ignore them: ``nohup``, or Ctrl-C in what
    a script runs in the background.

    Attributes:
        received: number of the first signal received; a later SIGUSR1 (requeue the Slurm job)
            overrides it. None: no signal.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        try:
            for signum in _STOPPING:
                is_ignored = signal.getsignal(signum) is signal.SIG_IGN
                if not (is_ignored and signum in _STAYING_IGNORED):
                    self._before[signum] = signal.signal(signum, self._record)
        except ValueError:  # not the main thread
            self._before.clear()
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    def _record(self, signum: int, frame: FrameType | None) -> None:
        if self.received is None or signum == signal.SIGUSR1:  # preemption may send SIGTERM too
            self.received = signum
        elif signum == signal.SIGINT:
            raise KeyboardInterrupt


def ignore_stop_signals(worker_id: int) -> None:
    """Make a DataLoader worker ignore the stop signals that its process group receives.

    The worker exits when the main process shuts it down, or on a second SIGTERM, which PyTorch
    sends to hanging workers.

    Args:
        worker_id: passed by the data loader; unused.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _exit_on_next_signal)


def _exit_on_next_signal(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, lambda *_: os._exit(128 + signum))
