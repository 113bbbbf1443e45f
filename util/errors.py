"""Exceptions: user errors, diverged training, and lost connections."""

import re

# Matches the last UserError of a traceback: its causes come first.
_RERAISED_BY_A_WORKER = re.compile(r".*^(?:[\w.]+\.)?UserError: (.*)", re.MULTILINE | re.DOTALL)


class UserError(ValueError):
    """An error in flags, files or data that the user can fix.

    The message is one line: the problem, its location (file, image id, annotation id or flag) and
    the fix. Commands print it to stderr without a traceback and exit with status 2.
    """

    def one_line(self) -> str:
        """The message on one line, without the traceback that a DataLoader worker adds."""
        text = str(self)
        wrapped = _RERAISED_BY_A_WORKER.match(text) if "Original Traceback" in text else None
        return " ".join((wrapped[1] if wrapped else text).split())


class DivergenceError(ArithmeticError):
    """A prediction, loss, gradient or weight is not finite, so the run ends."""


class ConnectionLostError(RuntimeError):
    """Another process of the distributed run exited or hangs."""
