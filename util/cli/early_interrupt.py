"""Handle Ctrl-C while slow modules such as PyTorch are being imported.

This module imports only the standard library, so that a program can use it first.
"""

import os
import signal
from types import FrameType


def end_at_once_on_interrupt(name: str) -> None:
    """Make Ctrl-C end the program with one line and status 130, until `raise_on_interrupt`.

    Not done with KeyboardInterrupt: it would print a traceback, or be swallowed by modules that
    catch all exceptions during import. If the process was started to ignore Ctrl-C, as in the
    background of a script, nothing changes.

    Args:
        name: name of the program, for the message.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return
    line = f"{name}: interrupted while starting; nothing is written\n".encode()

    def end(signum: int, frame: FrameType | None) -> None:
        """Signal handler: print the line and end the process."""
        os.write(2, line)
        os._exit(128 + signum)

    signal.signal(signal.SIGINT, end)


def raise_on_interrupt() -> None:
    """Make Ctrl-C raise a KeyboardInterrupt again, if `end_at_once_on_interrupt` changed that."""
    handler = signal.getsignal(signal.SIGINT)
    if getattr(handler, "__module__", None) == __name__:
        signal.signal(signal.SIGINT, signal.default_int_handler)
