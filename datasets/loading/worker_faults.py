"""Explain why a data-loading process died, and suggest a fix."""

import re

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


def explain_worker_fault(error: BaseException) -> str | None:
    """Explain PyTorch's error for a worker that died or could not return its data.

    Args:
        error: error raised by training.

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
