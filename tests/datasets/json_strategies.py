"""Arbitrary JSON for hypothesis: annotation files with a few wrong values, and wholly wild ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

TABLES = ("images", "annotations", "categories")

# Surrogates too: JSON can hold halves of UTF-16 pairs.
TEXTS = st.text(st.characters(), max_size=8) | st.sampled_from(
    ["1.png", "../1.png", "/", ".", "a\0", "\ud800", "x" * 5000, "sub/1.png", "", "03", "P" * 30]
)
NUMBERS = (
    st.integers(-3, 300)
    | st.integers()
    | st.floats()
    | st.sampled_from([0, 1, -1, 1e308, -1e308, 10**9, 2**31, 2**63, -(2**63), 10**30, 10**400])
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=7)
        | st.dictionaries(st.sampled_from(["id", "counts", "size"]) | TEXTS, inner, max_size=3)
    ),
    max_leaves=8,
)
BOXES = st.lists(NUMBERS, min_size=4, max_size=4)
SIZES = st.lists(st.integers(0, 20) | NUMBERS, min_size=2, max_size=2)
RLES = st.fixed_dictionaries(
    {"size": SIZES | st.just([12, 16]), "counts": st.lists(NUMBERS, max_size=4) | TEXTS}
)
SEGMENTATIONS = st.lists(st.lists(NUMBERS, max_size=8) | BOXES, max_size=3) | RLES


def edits(fields: Sequence[str]) -> st.SearchStrategy[list[tuple[str, int, str, Any]]]:
    """A few replacements: table, row (modulo their number), field and value."""
    value = VALUES | BOXES | SEGMENTATIONS
    field = st.sampled_from(fields) | TEXTS
    return st.lists(st.tuples(st.sampled_from(TABLES), st.integers(0, 9), field, value), max_size=4)


def edited(data: dict[str, Any], replacements: Sequence[tuple[str, int, str, Any]]) -> dict:
    """A copy of a file with some values replaced."""
    copied = json.loads(json.dumps(data))
    for table, index, field, value in replacements:
        rows = copied[table]
        rows[index % len(rows)][field] = value
    return copied


def wild_files(fields: Sequence[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Three tables of rows that have some of the fields, with anything in them."""
    rows = st.lists(
        st.dictionaries(st.sampled_from(fields), VALUES | SEGMENTATIONS, max_size=6)
        | st.just({"id": 1, "file_name": "1.png"})
        | st.just({"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}),
        max_size=3,
    )
    return st.fixed_dictionaries(dict.fromkeys(TABLES, rows))


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data), encoding="ascii")
