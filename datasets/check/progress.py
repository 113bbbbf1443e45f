"""Progress line on a terminal."""

import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TextIO, TypeVar

T = TypeVar("T")

_SECONDS_BETWEEN_UPDATES = 0.2


def with_progress(
    items: Iterable[T], title: str, total: int, stream: TextIO | None = None
) -> Iterator[T]:
    """Yield items, and show their count, rate and remaining time.

    Args:
        items: items to yield.
        title: text before the count.
        total: number of items.
        stream: output, by default stderr. Nothing is written unless it is a terminal; the line is
            erased at the end.
    """
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        yield from items
        return
    started = shown = time.monotonic()
    try:
        for count, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            if now - shown >= _SECONDS_BETWEEN_UPDATES:
                shown = now
                stream.write(f"\r\x1b[K{_line(title, count, total, now - started)}")
                stream.flush()
    finally:
        stream.write("\r\x1b[K")
        stream.flush()


def _line(title: str, count: int, total: int, seconds: float) -> str:
    remaining = timedelta(seconds=round(seconds / count * max(total - count, 0)))
    return f"{title} {count}/{total}  {count / seconds:.0f}/s  eta {remaining}"
