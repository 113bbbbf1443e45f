"""What processes that train together write to the terminal."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def only_main_prints(rank: int) -> Iterator[None]:
    """Leave stdout to the main process for a while.

    In the others ``sys.stdout`` leads nowhere, and logging shows warnings and errors alone, on
    stderr, with the rank in front. Stderr itself stays, so that no error is lost. All is put back
    at the end. ``print`` is never touched.

    Args:
        rank: of this process; 0 is the main one.
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
