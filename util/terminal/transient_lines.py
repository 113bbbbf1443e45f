"""Progress messages of libraries, shown on a terminal until the next line replaces them."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO

# What pycocotools prints while it reads an annotation file, and `datasets.coco` in its place.
_STARTS = (
    "loading annotations into memory...",
    "Done (t=",
    "creating index...",
    "index created!",
)
_ERASE_TO_END = "\x1b[K"


@contextlib.contextmanager
def transient_lines() -> Iterator[None]:
    """Show pycocotools' messages on a terminal until the next line; drop them elsewhere."""
    above: Any = _TransientLines(sys.stdout)
    with contextlib.redirect_stdout(above):
        try:
            yield
        finally:
            above.end()


class _TransientLines:
    """A stream in which the next line overwrites a progress message."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._line = stream, ""
        self._is_terminal = stream.isatty()

    def write(self, text: str) -> int:
        """Write complete lines; keep the beginning of the next line."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._write_line(line)
        return len(text)

    def _write_line(self, line: str) -> None:
        is_transient = line.startswith(_STARTS)
        if self._is_terminal:
            self._stream.write(_ERASE_TO_END + line + ("\r" if is_transient else "\n"))
            self._stream.flush()
        elif not is_transient:
            self._stream.write(line + "\n")

    def end(self) -> None:
        """Erase the last transient line, and write the beginning of a line that was not ended."""
        self._stream.write((_ERASE_TO_END if self._is_terminal else "") + self._line)
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
