"""Read the tables of a COCO file in blocks of rows, without holding the file in memory.

Only regular files are read here. `IrregularError` is raised for any other file, valid or not:
`datasets.annotations.coco_file.load_annotations` reads it as a whole, or explains what is wrong.
"""

import codecs
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from datasets.annotations.coco_file import Row

TABLES = ("images", "annotations", "categories")

_BLOCK = 1 << 20  # bytes
_VALUE = 1 << 12  # bytes that most values outside the tables fit into
_SPACE = rb"[ \t\n\r]*"
_BETWEEN_ROWS = re.compile(rb"\}" + _SPACE + rb"," + _SPACE + rb"\{")
_AFTER_ROW = re.compile(r"[ \t\n\r]*(?:,[ \t\n\r]*|(\]))")
_DECODER = json.JSONDecoder()


class IrregularError(Exception):
    """The tables cannot be stored in arrays as they are: invalid or unusual."""


class Block(NamedTuple):
    """Some consecutive rows of a table.

    Attributes:
        rows: the decoded rows.
        text: their JSON, with what is between them.
        starts: (N,) int64, position in ``text`` of the first byte of each row.
        ends: (N,) int64, position after its last byte.
    """

    rows: list[Row]
    text: bytes
    starts: np.ndarray
    ends: np.ndarray


Receivers = Mapping[str, Callable[[Block], None]]


def read_blocks(path: str | Path, receivers: Receivers) -> dict[str, Any]:
    """Read an annotation file.

    Args:
        path: UTF-8 JSON file: an object.
        receivers: for each table, a function that is called with its blocks in turn. The value of a
            table must be a list of objects.

    Returns:
        the values of all other keys.

    Raises:
        IrregularError: if the file is not a JSON object with the tables, each once
            (``annotations`` may be missing).
        OSError: if the file cannot be read.
    """
    with open(path, "rb") as file:
        try:
            return _Reader(file, receivers).read()
        except (ValueError, RecursionError) as error:
            raise IrregularError from error


class _Reader:
    """Reads a file from its beginning to its end; ``_data`` is the part that is not yet used."""

    def __init__(self, file: IO[bytes], receivers: Receivers) -> None:
        self._file, self._receivers = file, receivers
        self._data, self._at_end = b"", False
        self._grow(_BLOCK)

    def read(self) -> dict[str, Any]:
        self._data = self._data.removeprefix(codecs.BOM_UTF8)
        others: dict[str, Any] = {}
        missing = set(self._receivers)
        self._next(b"{")
        while True:
            key = self._value()
            if type(key) is not str:
                raise IrregularError
            self._next(b":")
            if key in missing:
                missing.remove(key)
                self._next(b"[")
                self._read_table(self._receivers[key])
            elif key in self._receivers:
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
                if end < len(text) or is_all:  # else a number may go on
                    self._data = self._data[len(text[:end].encode()) :]
                    return value
            except json.JSONDecodeError:
                if is_all:
                    raise
            size *= 4

    def _read_table(self, receive: Callable[[Block], None]) -> None:
        """Read rows up to the end of a list; its opening bracket has been read."""
        if self._peek() == b"]":
            self._next(b"]")
            return
        is_nested = ended = False
        while not ended:
            if len(self._data) < _BLOCK and not self._at_end:
                self._grow(_BLOCK)
            block = None if is_nested else self._many_rows()
            if block is None:
                is_nested = True
                block, ended = self._row_by_row()
            receive(block)

    def _many_rows(self) -> Block | None:
        """Read the rows in ``_data`` at once; None if they contain objects, or the table ends."""
        between = list(_BETWEEN_ROWS.finditer(self._data))
        if not between:
            return None
        text = self._data[: between[-1].start() + 1]
        try:
            rows = json.loads(f"[{str(text, 'utf-8')}]")
        except ValueError:
            return None
        if len(rows) != len(between):  # "}, {" within a row
            return None
        ends = np.array([match.start() + 1 for match in between], dtype=np.int64)
        starts = np.array([0, *(match.end() - 1 for match in between)], dtype=np.int64)
        self._data = self._data[starts[-1] :]
        return Block(_all_objects(rows), text, starts[:-1], ends)

    def _row_by_row(self) -> tuple[Block, bool]:
        """Read the complete rows in ``_data``, and return whether the table ends with them."""
        size = _BLOCK
        while True:
            text, _ = codecs.utf_8_decode(self._data, "strict", self._at_end)
            rows, spans, used, ended = _decode_rows(text, self._at_end)
            if rows:
                break
            if self._at_end:
                raise IrregularError
            self._grow(size)
            size *= 2
        parts = [text[start:end].encode() for start, end in spans]
        self._data = self._data[len(text[:used].encode()) :]
        lengths = np.array([len(part) for part in parts], dtype=np.int64)
        ends = np.cumsum(lengths)
        return Block(_all_objects(rows), b"".join(parts), ends - lengths, ends), ended


def _all_objects(rows: list[Any]) -> list[Row]:
    if set(map(type, rows)) != {dict}:
        raise IrregularError
    return rows


def _decode_rows(text: str, is_all: bool) -> tuple[list[Any], list[tuple[int, int]], int, bool]:
    """Decode the complete rows at the beginning of a text.

    Args:
        text: rows separated by commas.
        is_all: whether the text goes to the end of the file.

    Returns:
        the rows, where each begins and ends, where the first row that is not among them begins, and
        whether the list has ended.
    """
    rows: list[Any] = []
    spans = []
    used = 0
    while True:
        try:
            row, end = _DECODER.raw_decode(text, used)
        except json.JSONDecodeError:
            if is_all:
                raise
            return rows, spans, used, False
        after = _AFTER_ROW.match(text, end)
        if after is None or (after.end() == len(text) and not is_all and after[1] is None):
            if is_all:
                raise IrregularError
            return rows, spans, used, False
        rows.append(row)
        spans.append((used, end))
        used = after.end()
        if after[1] is not None:
            return rows, spans, used, True
