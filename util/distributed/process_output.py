"""Terminal output of a distributed run: stdout from rank 0 only."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator

_SECONDS = 1  # torchrun notices a process that has failed within 0.1 s


def let_main_process_report() -> None:
    """Under torchrun, wait on all ranks but 0 before an error is printed.

    Most errors occur on all ranks. torchrun ends all processes once one of them has failed, so only
    rank 0 prints the error. An error on another rank alone is printed after the wait.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "0") != "0":
        time.sleep(_SECONDS)


@contextlib.contextmanager
def only_main_prints(rank: int) -> Iterator[None]:
    """Silence stdout on all ranks but 0 inside the ``with`` block.

    On these ranks, logging shows warnings and errors only, on stderr, prefixed with the rank. Other
    output to stderr and ``print`` itself are unchanged.
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
