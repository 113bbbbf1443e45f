"""The one kind of error that stands for a user's mistake rather than a fault of the program."""

import re

# The last error of the traceback: errors that led to it come before.
_RERAISED_BY_A_WORKER = re.compile(r".*^(?:[\w.]+\.)?UserError: (.*)", re.MULTILINE | re.DOTALL)


class UserError(ValueError):
    """A mistake in flags, files or data that the user can mend.

    The message is one line: what is wrong, where (file, image id, annotation id or flag) and the
    way out. Commands print it to stderr and end with exit status 2, without a traceback.
    """

    def one_line(self) -> str:
        """The message alone, also where a data-loader worker wrapped it in its traceback."""
        text = str(self)
        wrapped = _RERAISED_BY_A_WORKER.match(text) if "Original Traceback" in text else None
        return " ".join((wrapped[1] if wrapped else text).split())


class DivergenceError(ArithmeticError):
    """The network or the loss is no longer finite: training cannot go on from these weights."""


class ConnectionLostError(RuntimeError):
    """Another process that trains with this one is gone or stuck: alone it cannot go on."""
