"""Why a data-loading process has died, and what to do about it."""

import re

_FULL_SHARED_MEMORY = (
    "shared memory is full: enlarge /dev/shm (docker run --shm-size 8g), or lower --num_workers or "
    "--batch_size"
)
# Looked for in this order.
_REMEDIES = {
    r"Bus error": _FULL_SHARED_MEMORY,
    r"shared memory|/torch_\d|No space left on device": _FULL_SHARED_MEMORY,
    r"Too many open files|ancdata": (
        "too many files are open: raise the limit (ulimit -n 65536), or lower --num_workers"
    ),
    r"signal: Killed": (
        "the system killed it, most likely for want of memory: lower --num_workers, --batch_size "
        "or --max_size"
    ),
    r"signal: (Segmentation fault|Aborted)": (
        "a library crashed while it read an image: look for it with python -m datasets.check, or "
        "train with --num_workers 0"
    ),
    r"signal: |exited unexpectedly": (
        "something ended it: look into the system's log, or train with --num_workers 0 to see the "
        "error itself"
    ),
}
_FAULT_OF_A_WORKER = re.compile(
    r"DataLoader worker|/torch_\d|Too many open files|ancdata|shared memory", re.IGNORECASE
)


def explain_worker_fault(error: BaseException) -> str | None:
    """One line on what PyTorch says when a worker has died or cannot hand over its data.

    Args:
        error: what training raised.

    Returns:
        what has happened, and the remedy; None where it is not about workers.
    """
    if not isinstance(error, RuntimeError | OSError):
        return None
    # The signal is often told by the error behind the error.
    behind = error.__cause__ or error.__context__
    text = " ".join(f"{behind or ''} {error}".split())
    if not _FAULT_OF_A_WORKER.search(text):
        return None
    remedy = next((what for sign, what in _REMEDIES.items() if re.search(sign, text)), None)
    if remedy is None:
        return None
    return f"a data-loading process failed ({text:.160}); {remedy}"
