"""The tables of an annotation file: arrays with a part of the fields, and the encoded rows."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.annotations.coco_file import Row
from datasets.annotations.compact.cache import cached
from datasets.annotations.compact.columns import Columns
from datasets.annotations.compact.json_blocks import (
    Block,
    IrregularError,
    TableHandler,
    read_blocks,
)
from datasets.annotations.compact.rows import EncodedRows, MemoryBytes, pickled
from datasets.annotations.table_checks import Rule, TableChecks
from util.system.memory import garbage_collection_paused

_ROWS_AT_ONCE = 4096

ToColumns = Callable[[Sequence[Row]], Columns]


class Kind(NamedTuple):
    """Conversion rules for one kind of annotation file.

    Attributes:
        name: name of the kind.
        columns: for "images" and "annotations", converts some of the rows to arrays. Arrays of
            successive rows are joined.
        decode: for "annotations", see `TableHandler`; only ``columns`` receives rows decoded this
            way; the stored rows are complete.
        category_rules: rules for rows of "categories".
        finish: converts the arrays of the whole file, by table, and the categories to the arrays to
            store; raises `IrregularError` if rows are inconsistent (duplicate or unknown ids).
    """

    name: str
    columns: Mapping[str, ToColumns]
    decode: Callable[[bytes], list[Any]]
    category_rules: list[Rule]
    finish: Callable[[Mapping[str, Columns], Sequence[Row]], Mapping[str, np.ndarray]]


class CompactTables(NamedTuple):
    """Content of an annotation file.

    Attributes:
        arrays: see `Kind.finish`.
        images: rows of the table.
        annotations: rows of the table.
        other_keys: all other keys of the file, among them "categories".
    """

    arrays: Mapping[str, np.ndarray]
    images: EncodedRows
    annotations: EncodedRows
    other_keys: dict[str, Any]


def tables_of(data: str | Path | Mapping[str, Any], kind: Kind) -> CompactTables:
    """Read an annotation file, or convert tables that are in memory.

    Raises:
        IrregularError: if the file cannot be read, or the data is invalid or unusual.
    """
    return _read(data, kind) if isinstance(data, str | Path) else _convert_tables(data, kind)


def _read(ann_file: str | Path, kind: Kind) -> CompactTables:
    """Read a file, or its entry in the cache."""
    try:
        with garbage_collection_paused():
            stored = cached(
                ann_file, kind.name, lambda file: _convert_file(ann_file, kind, file.write)
            )
            if stored is None:
                parts: list[bytes] = []
                arrays, other_keys = _convert_file(ann_file, kind, parts.append)
                return _with_rows(arrays, MemoryBytes(parts), other_keys)
    except OSError as error:
        raise IrregularError from error
    return _with_rows(stored.arrays, stored.rows, stored.other_keys)


def _with_rows(
    arrays: Mapping[str, np.ndarray], rows: Any, other_keys: dict[str, Any]
) -> CompactTables:
    images, annotations = (
        EncodedRows(rows, arrays[f"{table}_start"], arrays[f"{table}_end"])
        for table in ("images", "annotations")
    )
    return CompactTables(arrays, images, annotations, other_keys)


def _convert_tables(data: Mapping[str, Any], kind: Kind) -> CompactTables:
    """Convert tables that are in memory."""
    columns = {}
    for table, to_columns in kind.columns.items():
        rows = data[table]
        slices = range(0, max(1, len(rows)), _ROWS_AT_ONCE)
        columns[table] = _joined([to_columns(rows[k : k + _ROWS_AT_ONCE]) for k in slices])
    arrays = _finish(kind, columns, data["categories"])
    other_keys = {key: value for key, value in data.items() if key not in kind.columns}
    return CompactTables(arrays, pickled(data["images"]), pickled(data["annotations"]), other_keys)


def _convert_file(
    ann_file: str | Path, kind: Kind, write: Callable[[bytes], Any]
) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
    """Read a file; its rows are given to ``write``."""
    collector = _Collector(kind, write)
    categories: list[Row] = []
    handlers = {
        "images": TableHandler(partial(collector.add, "images")),
        "annotations": TableHandler(partial(collector.add, "annotations"), kind.decode),
        "categories": TableHandler(lambda block: categories.extend(block.rows)),
    }
    rest = read_blocks(ann_file, handlers)
    arrays = _finish(kind, collector.columns(), categories)
    return arrays, {**rest, "categories": categories}


class _Collector:
    """Converts blocks of rows.

    Args:
        kind: of the file.
        write: receives the JSON of all rows.
    """

    def __init__(self, kind: Kind, write: Callable[[bytes], Any]) -> None:
        self._kind, self._write, self._written = kind, write, 0
        no_rows = Block([], b"", *np.zeros((2, 0), dtype=np.int64))
        self._parts: dict[str, list[Columns]] = {table: [] for table in kind.columns}
        for table in kind.columns:
            self.add(table, no_rows)

    def add(self, table: str, block: Block) -> None:
        """Convert some rows, and write them."""
        columns = self._kind.columns[table](block.rows)
        places = {"start": block.starts + self._written, "end": block.ends + self._written}
        self._parts[table].append({**columns, **places})
        self._write(block.text)
        self._written += len(block.text)

    def columns(self) -> dict[str, Columns]:
        """Arrays of all rows, by table."""
        return {table: _joined(self._parts.pop(table)) for table in self._kind.columns}


def _joined(parts: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _finish(
    kind: Kind, columns: Mapping[str, Columns], categories: Sequence[Row]
) -> Mapping[str, np.ndarray]:
    problems = TableChecks("")
    problems.check_table("categories", list(categories), kind.category_rules)
    if problems.problems or not len(columns["images"]["id"]):
        raise IrregularError
    places = {
        f"{table}_{name}": columns[table][name]
        for table in columns
        for name in ("start", "end")
        if name in columns[table]
    }
    return {**kind.finish(columns, categories), **places}
