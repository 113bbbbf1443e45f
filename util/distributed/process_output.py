"""Terminal output of a distributed run: stdout from rank 0 only."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def only_main_prints(rank: int) -> Iterator[None]:
    """Silence stdout on all ranks but 0 inside the ``with`` block.

    On these ranks, logging shows warnings and errors only, on stderr, prefixed with the rank. Other
    output to stderr and ``print`` itself are unchanged.

    Args:
        rank: rank of this process.
    """
    if rank == 0:
        yield
        return
    root = logging.getLogger()
    before = root.level, root.handlers
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"rank {rank}: %(levelname)s: %(message)s"))
    root.setLevel(logging.WARNING)
    root.handlers = [handler]
    try:
        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            contextlib.redirect_stdout(nowhere),
        ):
            yield
    finally:
        root.level, root.handlers = before
