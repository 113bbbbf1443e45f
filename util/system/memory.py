"""Memory of the process: reuse of freed blocks, and a pause of garbage collection."""

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # parameters of glibc's mallopt
_LARGEST_MMAP_THRESHOLD = 32 * 2**20


def keep_freed_memory(enabled: bool = True) -> bool:
    """Let this process reuse freed memory instead of returning it to the operating system.

    By default glibc returns every freed block above 32 MB, and the kernel clears the pages of the
    next one: on a CPU this can take up to half of a forward pass of large images, see
    ``benchmarks/RESULTS.md``. A process that keeps its memory stays at its peak size.

    Args:
        enabled: False returns freed blocks above 32 MB again, for comparisons.

    Returns:
        whether the C library has these settings (glibc on Linux); otherwise nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    libc.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    libc.mallopt(_MMAP_MAX, 0 if enabled else 65536)
    libc.mallopt(_TRIM_THRESHOLD, -1)  # never trim
    return True


@contextlib.contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pause garbage collection, which takes seconds while millions of dicts are created."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
