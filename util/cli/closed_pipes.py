"""Output through a pipe whose reader has ended, as in ``main.py … | tee log.txt`` after Ctrl-C.

Ctrl-C also ends ``tee``. Without `outlive_readers_of_output` the next line that main.py prints
would raise BrokenPipeError, possibly before its checkpoint is saved.
"""

import io
import os
import select
import stat
import sys
from typing import Any, TextIO


def outlive_readers_of_output() -> None:
    """Discard what is printed to a pipe after its reader has ended; the program goes on."""
    sys.stdout, sys.stderr = _outliving_reader(sys.stdout), _outliving_reader(sys.stderr)


def ends_without_reader() -> bool:
    """Whether the reader of stdout has ended, as in ``predict.py … | head``.

    Discards the remaining output, which Python would write at its exit.
    """
    if not (_is_pipe(sys.stdout) and _has_no_reader(sys.stdout.fileno())):
        return False
    _discard(sys.stdout.fileno())
    return True


def _outliving_reader(stream: TextIO) -> TextIO:
    if not (_is_pipe(stream) and isinstance(stream, io.TextIOWrapper)):
        return stream
    stream.flush()
    pipe = _Pipe(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        pipe if stream.write_through else io.BufferedWriter(pipe),  # write_through: python -u
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Pipe(io.FileIO):
    """Write end of a pipe; leads to the null device once nobody reads the pipe."""

    def write(self, data: Any, /) -> int:
        """Write as `io.FileIO`, but never raise BrokenPipeError."""
        try:
            return super().write(data)
        except BrokenPipeError:
            _discard(self.fileno())
            return super().write(data)


def _is_pipe(stream: TextIO) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except (AttributeError, OSError):  # no stream, or not a file
        return False


def _has_no_reader(pipe: int) -> bool:
    poll = select.poll()
    poll.register(pipe, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _discard(descriptor: int) -> None:
    """Write what follows to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
