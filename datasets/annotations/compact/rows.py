"""Encoded rows of a table, in a file or in memory; each is decoded when it is used."""

import json
import os
import pickle
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from datasets.annotations.coco_file import Row


class ByteSource(Protocol):
    """Bytes that are read by their position."""

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` up to, not including, ``end``."""


class MemoryBytes:
    """Bytes in memory, in one or more parts."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._bytes = b"".join(parts)

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` up to, not including, ``end``."""
        return self._bytes[start:end]


class FileBytes:
    """Bytes of a file, read from disk at each access, so that they use no memory.

    The file is kept open, so it may be deleted or replaced meanwhile. Forked processes share the
    open file; spawned ones reopen it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` up to, not including, ``end``."""
        return os.pread(self._file, end - start, start)

    def __reduce__(self) -> tuple[Any, ...]:
        return FileBytes, (self._path,)


class EncodedRows(Sequence[Row]):
    """Rows of a table. Each access decodes the row again, so changes to it are lost.

    Args:
        source: the encoded rows.
        starts: (N,) int64, first byte of each row.
        ends: (N,) int64, byte after the last byte of each row.
        decode: converts bytes to a row.
    """

    def __init__(
        self,
        source: ByteSource,
        starts: np.ndarray,
        ends: np.ndarray,
        decode: Callable[[bytes], Row] = json.loads,
    ) -> None:
        self._source, self._starts, self._ends, self._decode = source, starts, ends, decode

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        """Return the row at an index, or a list of the rows of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._decode(self._source.read(int(self._starts[index]), int(self._ends[index])))

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))


def pickled(rows: Sequence[Row]) -> EncodedRows:
    """Rows that are in memory, in compact form."""
    parts = [pickle.dumps(row, pickle.HIGHEST_PROTOCOL) for row in rows]
    ends = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))
    starts = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
    return EncodedRows(MemoryBytes(parts), starts, ends, pickle.loads)
