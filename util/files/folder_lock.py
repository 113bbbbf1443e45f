"""A lock that keeps two runs from writing to the same output folder."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from util.distributed.gathering import decide_on_main
from util.distributed.processes import is_main_process
from util.errors import UserError

_LOCK = ".lock"
_SECONDS = 5  # until a killed run has released its lock, also on a network file system
_POLL_SECONDS = 0.1
_held: set[int] = set()  # file descriptors


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of an output folder inside the ``with`` block. Collective: call on every rank.

    The system releases it if the process dies. Without support of the file system or the platform
    nothing is locked. If another machine holds the lock, only a warning is printed: a network file
    system may keep it for a while after a crash of that machine. A folder that did not exist before
    is removed again if it is empty at the end.

    Raises:
        UserError: on every rank, if another run on this machine holds it.
    """
    new = [path for path in (folder, *folder.parents) if is_main_process() and not path.exists()]
    lock = decide_on_main(lambda: _lock(folder))
    try:
        yield
    finally:
        if is_main_process() and lock is not None:
            _held.discard(lock)
            with contextlib.suppress(OSError):
                (folder / _LOCK).unlink()
            os.close(lock)
        with contextlib.suppress(OSError):  # not empty
            for path in new:
                path.rmdir()


def _lock(folder: Path) -> int | None:
    """Descriptor of the locked file; None if it cannot be locked."""
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return None
        is_held = False
        try:
            is_held = _hold(lock, folder / _LOCK)
            owner = "" if is_held else os.read(lock, 200).decode(errors="replace")
        except PermissionError:  # another run may hold the lock
            return None
        except (ImportError, OSError):  # Windows, or a file system without locks
            with contextlib.suppress(OSError):
                (folder / _LOCK).unlink()
            return None
        finally:
            if not is_held:
                os.close(lock)
        if is_held:
            _held.add(lock)
            return lock
        if time.monotonic() > deadline:
            _report_owner(folder, owner)
            return None
        time.sleep(_POLL_SECONDS)


def _hold(lock: int, path: Path) -> bool:
    """Lock an open file and write its owner to it; False if another process holds it."""
    import fcntl  # not on Windows

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    if not _is_at(lock, path):
        return False
    os.ftruncate(lock, 0)
    os.write(lock, f"process {os.getpid()}{_here()}".encode())
    return True


def _here() -> str:
    return f" on {socket.gethostname()}"


def _report_owner(folder: Path, owner: str) -> None:
    """Raise a UserError if the lock belongs to a process of this machine; else print a warning."""
    fix = "stop that run, or choose a different folder"
    if owner.endswith(_here()):
        raise UserError(f"--output_dir {folder}: another run is writing to it ({owner}); {fix}")
    print(
        f"Warning: --output_dir {folder}: another run may be writing to it ({owner or 'unknown'}); "
        f"if it has not ended, {fix}"
    )


def _is_at(lock: int, path: Path) -> bool:
    """Whether a locked file is still the one at a path; the run before may have removed it."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except FileNotFoundError:
        return False


def _release_in_child() -> None:
    """Close the lock in forked DataLoader workers, which may outlive a killed run."""
    for lock in _held:
        os.close(lock)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
