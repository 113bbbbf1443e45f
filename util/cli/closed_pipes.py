"""Output to a pipe or socket whose reader has ended, or to a terminal that was closed.

Ctrl-C in ``main.py … | tee log.txt`` also ends ``tee``; ``main.py … & disown`` outlives its
terminal. Without `outlive_readers_of_output` the next line that main.py prints would raise an
OSError, possibly before its checkpoint is saved.
"""

import errno
import io
import os
import select
import stat
import sys
from typing import Any, TextIO

_NO_READER = (errno.EPIPE, errno.ECONNRESET, errno.EIO)  # EIO: the terminal was closed


def outlive_readers_of_output() -> None:
    """Discard what nobody reads any more, on a pipe, socket or terminal; the program goes on.

    A closed stream (``>&-``), which is None, leads to the null device.
    """
    sys.stdout, sys.stderr = _outliving_reader(sys.stdout), _outliving_reader(sys.stderr)


def ends_without_reader() -> bool:
    """Whether the reader of stdout has ended, as in ``predict.py … | head``.

    Discards the remaining output, which Python would write at its exit.
    """
    if not (_is_pipe(sys.stdout) and _has_no_reader(sys.stdout.fileno())):
        return False
    _discard(sys.stdout.fileno())
    return True


def _outliving_reader(stream: TextIO | None) -> TextIO:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if not (isinstance(stream, io.TextIOWrapper) and (_is_pipe(stream) or stream.isatty())):
        return stream
    stream.flush()
    output = _Output(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        output if stream.write_through else io.BufferedWriter(output),  # write_through: python -u
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Output(io.FileIO):
    """A pipe, socket or terminal; leads to the null device once nobody reads it."""

    def write(self, data: Any, /) -> int:
        """Write as `io.FileIO`, but without an error if nobody reads."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _NO_READER:
                raise
            _discard(self.fileno())
            return super().write(data)


def _is_pipe(stream: TextIO) -> bool:
    try:
        mode = os.fstat(stream.fileno()).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
    except (AttributeError, OSError):  # no stream, or not a file
        return False


def _has_no_reader(pipe: int) -> bool:
    poll = select.poll()
    poll.register(pipe, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _discard(descriptor: int) -> None:
    """Write what follows to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
