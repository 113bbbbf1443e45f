"""End a run after a signal or after the crash of a DataLoader worker."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from datasets.loading.worker_faults import explain_worker_fault
from training.state import RunState
from util.cli.signals import StopRequested, StopSignals
from util.distributed.processes import all_gather
from util.errors import UserError


def stop(signals: StopSignals, state: RunState, folder: Path | None) -> NoReturn:
    """End a run after a signal. Collective: call on every rank.

    Args:
        signals: signals received by this process; a signal may not reach all processes.
        state: training progress.
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
        f"stopped by {signal.Signals(signum).name} in epoch {state.epoch}, after "
        f"{state.step} steps in total; "
        + (saved if folder is not None else "nothing is saved without --output_dir"),
    )


@contextlib.contextmanager
def explained_worker_faults(signals: StopSignals) -> Iterator[None]:
    """Convert errors of crashed DataLoader workers to a one-line message.

    PyTorch may raise them anywhere in the main process. A signal to the whole process group may
    kill a worker that is still starting.

    Args:
        signals: signals received by this process.

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
