"""End a run after a signal or after the crash of a DataLoader worker."""

import contextlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from training.progress import Progress
from util.cli.signals import StopRequested, StopSignals
from util.distributed.processes import all_gather
from util.errors import UserError

_FULL_SHARED_MEMORY = (
    "shared memory is full: enlarge /dev/shm (docker run --shm-size 8g), or lower --num_workers or "
    "--batch_size"
)
# The first matching pattern is used.
_REMEDIES = {
    r"Bus error": _FULL_SHARED_MEMORY,
    r"shared memory|/torch_\d|No space left on device": _FULL_SHARED_MEMORY,
    r"Too many open files|ancdata": (
        "too many files are open: raise the limit (ulimit -n 65536), or lower --num_workers"
    ),
    r"signal: Killed": (
        "the system killed it, probably because memory ran out: lower --num_workers, --batch_size "
        "or --max_size"
    ),
    r"signal: (Segmentation fault|Aborted)": (
        "a library crashed while reading an image: find the image with python -m datasets.check, "
        "or train with --num_workers 0"
    ),
    r"signal: |exited unexpectedly": (
        "it exited unexpectedly: check the system log, or train with --num_workers 0 to see the "
        "error"
    ),
}
_FAULT_OF_A_WORKER = re.compile(
    r"DataLoader worker|/torch_\d|Too many open files|ancdata|shared memory", re.IGNORECASE
)


def stop(signals: StopSignals, progress: Progress, folder: Path | None) -> NoReturn:
    """End a run after a signal. Collective: call on every rank.

    Args:
        signals: signals received by this process; a signal may not reach all processes.
        folder: output folder with the saved checkpoint; None: nothing was saved.

    Raises:
        StopRequested: on every rank.
    """
    # A signal may reach ranks at different times, and some not at all.
    received = [signum for signum in all_gather(signals.received) if signum is not None]
    signum = signal.SIGUSR1 if signal.SIGUSR1 in received else received[0]
    saved = f"checkpoint saved; continue with --output_dir {folder} --auto_resume"
    raise StopRequested(
        signum,
        f"stopped by {signal.Signals(signum).name} in epoch {progress.epoch}, after "
        f"{progress.step} steps in total; "
        + (saved if folder is not None else "nothing is saved without --output_dir"),
    )


@contextlib.contextmanager
def explained_worker_faults(signals: StopSignals) -> Iterator[None]:
    """Convert errors of crashed DataLoader workers to a one-line message.

    PyTorch may raise them anywhere in the main process. A signal to the whole process group may
    kill a worker that is still starting.

    Raises:
        UserError: if a worker crashed; the message explains the cause and the fix.
        StopRequested: if this process has also received a signal.
    """
    try:
        yield
    except (RuntimeError, OSError) as err:
        explanation = explain_worker_fault(err)
        if explanation is None:
            raise
        if signum := signals.received:
            raise StopRequested(
                signum,
                f"stopped by {signal.Signals(signum).name}, which killed a DataLoader worker; "
                "continue from the newest checkpoint with --auto_resume",
            ) from err
        raise UserError(f"{explanation}; then continue with --auto_resume") from err


def explain_worker_fault(error: BaseException) -> str | None:
    """Explain PyTorch's error for a worker that died or could not return its data.

    Returns:
        one line with cause and remedy; None for other errors.
    """
    if not isinstance(error, RuntimeError | OSError):
        return None
    # The signal is often only in the chained exception.
    chained = error.__cause__ or error.__context__
    text = " ".join(f"{chained or ''} {error}".split())
    if not _FAULT_OF_A_WORKER.search(text):
        return None
    matching = (remedy for pattern, remedy in _REMEDIES.items() if re.search(pattern, text))
    remedy = next(matching, None)
    if remedy is None:
        return None
    return f"a data-loading process failed ({text:.160}); {remedy}"
