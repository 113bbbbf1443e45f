"""The value of ``--log_style`` in effect."""

import sys


def prints_short(log_style: str) -> bool:
    """Whether a run prints short lines for people instead of the lines of the original.

    Args:
        log_style: ``short``, ``full``, or ``auto``: short if stdout is a terminal.
    """
    return log_style == "short" or (log_style == "auto" and sys.stdout.isatty())
