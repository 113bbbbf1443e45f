"""Read the tables of a COCO file in blocks of rows, without holding the file in memory.

Only files in the usual COCO form are read here. `IrregularError` is raised for any other file,
valid or not: `datasets.annotations.coco_file.load_annotations` reads it or reports the error.
"""

import codecs
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from datasets.annotations.coco_file import Row

_BLOCK = 1 << 20  # bytes
_VALUE = 1 << 12  # bytes; larger than most values outside the tables
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
# Change of nesting depth at a bracket; quotes get a separate code.
_OPENING, _CLOSING, _QUOTE = 1, 255, 2  # 255 is -1 in int8
_KINDS = {**dict.fromkeys(b"[{", _OPENING), **dict.fromkeys(b"]}", _CLOSING), ord('"'): _QUOTE}
_KIND_OF_BYTE = bytes(_KINDS.get(byte, 0) for byte in range(256))
_DECODER = json.JSONDecoder()


class IrregularError(Exception):
    """The fast reader cannot handle this file; the caller falls back to the slow reader."""


class Block(NamedTuple):
    """Some consecutive rows of a table.

    Attributes:
        rows: the decoded rows.
        text: the JSON of these rows, including the separators.
        starts: (N,) int64, position in ``text`` of the first byte of each row.
        ends: (N,) int64, position after the last byte of each row.
    """

    rows: list[Row]
    text: bytes
    starts: np.ndarray
    ends: np.ndarray


def decode_rows(text: bytes) -> list[Any]:
    """Decode rows that are separated by commas."""
    return json.loads(f"[{str(text, 'utf-8')}]")


class TableHandler(NamedTuple):
    """How to process the rows of a table.

    Attributes:
        receive: called with each block of the table in turn.
        decode: like `decode_rows`; may put placeholders in place of fields that need no decoding.
    """

    receive: Callable[[Block], None]
    decode: Callable[[bytes], list[Any]] = decode_rows


TableHandlers = Mapping[str, TableHandler]


def read_blocks(path: str | Path, handlers: TableHandlers) -> dict[str, Any]:
    """Read an annotation file.

    Args:
        path: UTF-8 JSON file: an object.
        handlers: by name of the table. The value of a table must be a list of objects.

    Returns:
        the values of all other keys.

    Raises:
        IrregularError: if the file is not a JSON object with the tables, each once
            (``annotations`` may be missing).
        OSError: if the file cannot be read.
    """
    with open(path, "rb") as file:
        try:
            return _Reader(file, handlers).read()
        except (ValueError, RecursionError) as error:
            raise IrregularError from error


class _Reader:
    """Reads a file from its beginning to its end; ``_data`` is the part that is not yet used."""

    def __init__(self, file: IO[bytes], handlers: TableHandlers) -> None:
        self._file, self._handlers = file, handlers
        self._data, self._at_end = b"", False
        self._grow(_BLOCK)

    def read(self) -> dict[str, Any]:
        """Read the whole file; return the values of all keys without a handler."""
        self._data = self._data.removeprefix(codecs.BOM_UTF8)
        others: dict[str, Any] = {}
        missing = set(self._handlers)
        self._next(b"{")
        while True:
            key = self._value()
            if type(key) is not str:
                raise IrregularError
            self._next(b":")
            if key in missing:
                missing.remove(key)
                self._next(b"[")
                self._read_table(self._handlers[key])
            elif key in self._handlers:
                raise IrregularError
            else:
                others[key] = self._value()
            if self._next(b",}") == b"}":
                break
        if missing - {"annotations"} or self._peek():
            raise IrregularError
        return others

    def _grow(self, size: int) -> None:
        """Read up to ``size`` more bytes."""
        added = self._file.read(size)
        self._at_end = len(added) < size
        self._data += added

    def _peek(self) -> bytes:
        """Skip white space, and return the next byte; empty at the end of the file."""
        self._data = self._data.lstrip(b" \t\n\r")
        while not self._data and not self._at_end:
            self._grow(_BLOCK)
            self._data = self._data.lstrip(b" \t\n\r")
        return self._data[:1]

    def _next(self, expected: bytes) -> bytes:
        """Skip white space and one byte, which must be one of the expected ones."""
        found = self._peek()
        if not found or found not in expected:
            raise IrregularError
        self._data = self._data[1:]
        return found

    def _value(self) -> Any:
        """Read a value."""
        self._peek()
        size = _VALUE
        while True:
            if len(self._data) < size:
                self._grow(size)
            text, _ = codecs.utf_8_decode(self._data[:size], "strict", False)
            is_all = self._at_end and size >= len(self._data)
            try:
                value, end = _DECODER.raw_decode(text)
                if end < len(text) or is_all:  # otherwise a number may continue in the next block
                    self._data = self._data[len(text[:end].encode()) :]
                    return value
            except json.JSONDecodeError:
                if is_all:
                    raise
            size *= 4

    def _read_table(self, handler: TableHandler) -> None:
        """Read rows up to the end of a list; its opening bracket has been read."""
        ended = self._peek() == b"]"
        if ended:
            self._next(b"]")
        while not ended:
            handler.receive(self._read_rows(handler))
            ended = self._next(b",]") == b"]"
            if not ended and self._peek() != b"{":
                raise IrregularError

    def _read_rows(self, handler: TableHandler) -> Block:
        """Read the complete rows at the beginning of ``_data``, at least one."""
        size = _BLOCK
        if len(self._data) < size:
            self._grow(size)
        starts, ends = _find_rows(self._data)
        while not len(ends):
            if self._at_end:
                raise IrregularError
            self._grow(size)
            starts, ends = _find_rows(self._data)
            size *= 2
        text, self._data = self._data[: ends[-1]], self._data[ends[-1] :]
        rows = handler.decode(text)
        if len(rows) != len(ends) or set(map(type, rows)) != {dict}:
            raise IrregularError
        return Block(rows, text, starts, ends)


def _find_rows(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Find the objects in a list that begins with one.

    Returns:
        ``starts`` and ``ends`` as in `Block`, of the complete objects up to the end of the list.
    """
    kinds = np.frombuffer(_ESCAPED.sub(b"  ", text).translate(_KIND_OF_BYTE), dtype=np.int8)
    places = np.flatnonzero(kinds != 0)
    kinds = kinds[places]
    is_quote = kinds == _QUOTE
    is_outside = ~is_quote & (np.cumsum(is_quote) % 2 == 0)  # outside strings
    places, steps = places[is_outside], kinds[is_outside]
    depth = np.cumsum(steps)
    if (depth < 0).any():
        list_end = int(np.argmax(depth < 0))
        places, steps, depth = places[:list_end], steps[:list_end], depth[:list_end]
    ends = places[depth == 0] + 1
    starts = places[(depth == 1) & (steps == _OPENING)]
    return starts[: len(ends)], ends
