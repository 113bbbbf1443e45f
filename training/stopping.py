"""How a run ends by a signal or by the death of a data worker."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from datasets.loading.worker_faults import explain_worker_fault
from training.state import RunState
from util.distributed.processes import all_gather
from util.errors import UserError
from util.signals import StopRequested, StopSignals


def stop(signals: StopSignals, state: RunState, folder: Path | None) -> NoReturn:
    """End a run after a signal. Collective: call on every rank.

    Args:
        signals: what this process has received; a signal may not reach all processes.
        state: progress of the run.
        folder: where a checkpoint was saved; None: nothing was saved.

    Raises:
        StopRequested: on every rank.
    """
    # A signal reaches machines at different times, and some processes not at all.
    received = [signum for signum in all_gather(signals.received) if signum is not None]
    signum = signal.SIGUSR1 if signal.SIGUSR1 in received else received[0]
    saved = f"saved, continue with --output_dir {folder} --auto_resume"
    raise StopRequested(
        signum,
        f"stopped by {signal.Signals(signum).name} in epoch {state.epoch}, after "
        f"{state.step} steps in all; "
        + (saved if folder is not None else "nothing is saved without --output_dir"),
    )


@contextlib.contextmanager
def explained_worker_faults(signals: StopSignals) -> Iterator[None]:
    """Explain the death of a data worker, which is raised anywhere, not only in its loader.

    A signal to the whole process group may kill a worker that is still starting.

    Args:
        signals: what this process has received.

    Raises:
        UserError: how the worker died, and what to do.
        StopRequested: a signal has also reached this process.
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
                f"stopped by {signal.Signals(signum).name}, which reached a data worker first; "
                "from the newest checkpoint continue with --auto_resume",
            ) from err
        raise UserError(f"{explanation}; then continue with --auto_resume") from err
