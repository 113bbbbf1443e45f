"""Removal of temporary files and folders on SIGTERM."""

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

_existing: set[Path] = set()


@contextlib.contextmanager
def removed_on_sigterm(path: Path) -> Iterator[None]:
    """Remove a file or folder if SIGTERM ends this process during the ``with`` block.

    By default SIGTERM ends a process without running ``finally`` blocks. Nothing is installed if
    SIGTERM has another handler, as during training, or outside the main thread.

    Args:
        path: temporary file or folder; need not exist.
    """
    is_default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    installs = is_default and threading.current_thread() is threading.main_thread()
    _existing.add(path)
    if installs:
        process = os.getpid()

        def end(signum: int, frame: FrameType | None) -> None:
            """Signal handler: remove the files and end the process."""
            if os.getpid() == process:  # not in a forked child
                for temporary in _existing:
                    _remove(temporary)
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        _existing.discard(path)
        if installs:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
