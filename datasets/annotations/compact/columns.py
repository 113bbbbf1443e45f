"""Convert rows of annotation files to arrays, and validate them in the same pass.

Each function raises `IrregularError` if a row is invalid by the rules of
`datasets.annotations.checks`, or if it has an id that is a string, or an image size such as 640.0.
"""

import json
import math
import re
from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np

from datasets.annotations.checks import are_keypoints, segmentation_fault
from datasets.annotations.coco_file import (
    LARGEST_AREA,
    LARGEST_COORDINATE,
    Row,
    has_whole_float,
    is_file_name,
)
from datasets.annotations.compact.json_blocks import IrregularError, decode_rows
from datasets.annotations.segmentations import is_rle
from datasets.annotations.table_checks import size_wh

Columns = dict[str, np.ndarray]

_NUMBERS = {int, float}
_SMALLEST_INT64 = -(2**63)  # no valid id
_LARGEST_SIDE = 2**31

# Polygons that are valid by their form: 6 to 400 coordinates below 10,000, so no outline is longer
# than `LONGEST_OUTLINE`.
_COORDINATE = rb"-?(?:0|[1-9]\d{0,3})(?:\.\d+)?"
_POINT = _COORDINATE + rb", ?" + _COORDINATE
_POLYGON = rb"\[" + _POINT + rb"(?:, ?" + _POINT + rb"){2,199}+\]"
_POLYGONS = re.compile(rb'("segmentation": ?)\[' + _POLYGON + rb"(?:, ?" + _POLYGON + rb")*+\]")
_PLAIN = object()  # placeholder for polygons that matched `_POLYGONS`
_CONSTANTS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": _PLAIN}


def decode_annotations(text: bytes) -> list[Any]:
    """Decode rows for `annotation_columns`: most polygons are checked without being decoded."""
    if b"-Infinity" in text:
        return decode_rows(text)
    short = str(_POLYGONS.sub(rb"\1-Infinity", text), "utf-8")
    return json.loads(f"[{short}]", parse_constant=_CONSTANTS.__getitem__)


def image_columns(rows: Sequence[Row]) -> Columns:
    """Convert rows of "images".

    Returns:
        ``id`` (N,) int64; ``size_wh`` (N, 2) int64, 0 where it is missing or invalid;
        ``file_name``, see `file_name_bytes`.
    """
    if any(map(has_whole_float, rows)):
        raise IrregularError
    sizes = np.array([size_wh(row) or (0, 0) for row in rows], dtype=np.int64)
    return {
        "id": integers(rows, "id"),
        "size_wh": sizes.reshape(-1, 2),
        "file_name": file_name_bytes(rows),
    }


def file_name_bytes(rows: Sequence[Row]) -> np.ndarray:
    """Values of ``file_name`` in UTF-8, each with a zero byte after it, as uint8."""
    names = column_of(rows, "file_name")
    if not all(map(is_file_name, names)):
        raise IrregularError
    text = "".join(f"{name}\0" for name in names).encode("utf-8", "surrogatepass")
    return np.frombuffer(text, dtype=np.uint8)


def names_in(text: np.ndarray) -> list[str]:
    """Names in the result of `file_name_bytes`."""
    return text.tobytes().decode("utf-8", "surrogatepass").split("\0")[:-1]


def annotation_columns(rows: Sequence[Row]) -> Columns:
    """Convert rows of "annotations" of an instance file.

    Returns:
        ``id``, ``image_id`` and ``category_id`` (N,) int64; ``bbox`` (N, 4) float64 xywh in pixels;
        ``iscrowd`` (N,) bool; ``has_shape`` (N,) bool, whether ``segmentation`` can be converted to
        a mask; ``rle_hw`` (N, 2) int64, size of the image that an RLE needs, 0 for polygons.
    """
    _numbers_within([a for a in column_of(rows, "area") if a is not None], LARGEST_AREA)
    if not all(value is None or are_keypoints(value) for value in column_of(rows, "keypoints")):
        raise IrregularError
    labels = integers(rows, "category_id")
    if labels.min(initial=0) < 0:
        raise IrregularError
    has_shape, rle_hw = _shapes(column_of(rows, "segmentation"))
    return {
        "id": integers(rows, "id"),
        "image_id": integers(rows, "image_id"),
        "category_id": labels,
        "bbox": _boxes(column_of(rows, "bbox")),
        "iscrowd": flags(rows, "iscrowd"),
        "has_shape": has_shape,
        "rle_hw": rle_hw,
    }


def column_of(rows: Sequence[Row], field: str) -> list[Any]:
    """Values of a field; None where it is missing."""
    try:
        return list(map(itemgetter(field), rows))  # faster
    except KeyError:
        return [row.get(field) for row in rows]


def integers(rows: Sequence[Row], field: str) -> np.ndarray:
    """Values of a field as (N,) int64."""
    return as_int64(column_of(rows, field))


def as_int64(values: list[Any]) -> np.ndarray:
    """Integers as (N,) int64."""
    if not set(map(type, values)) <= {int}:
        raise IrregularError
    try:
        array = np.array(values, dtype=np.int64)
    except OverflowError:
        raise IrregularError from None
    if array.min(initial=0) == _SMALLEST_INT64:
        raise IrregularError
    return array


def are_unique(values: np.ndarray) -> bool:
    """Whether no value occurs twice."""
    ordered = np.sort(values)
    return not (ordered[1:] == ordered[:-1]).any()


def flags(rows: Sequence[Row], field: str) -> np.ndarray:
    """Values 0 and 1 of a field as (N,) bool; False where it is missing."""
    values = column_of(rows, field)
    if not set(map(type, values)) <= {int, bool, type(None)} or not set(values) <= {0, 1, None}:
        raise IrregularError
    return np.array(values, dtype=bool)


def _numbers_within(values: list[Any], limit: float) -> np.ndarray:
    """Convert to (N,) float64; raise `IrregularError` if a magnitude exceeds ``limit``."""
    if not set(map(type, values)) <= _NUMBERS:
        raise IrregularError
    try:
        array = np.array(values, dtype=np.float64)
    except OverflowError:
        raise IrregularError from None
    if not (np.abs(array) <= limit).all():  # also rejects NaN
        raise IrregularError
    return array


def _boxes(values: list[Any]) -> np.ndarray:
    if not set(map(type, values)) <= {list} or not set(map(len, values)) <= {4}:
        raise IrregularError
    return _numbers_within(list(chain.from_iterable(values)), LARGEST_COORDINATE).reshape(-1, 4)


def _shapes(segmentations: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The columns ``has_shape`` and ``rle_hw`` of `annotation_columns`."""
    has_shape = np.array([value is _PLAIN for value in segmentations], dtype=bool)
    rle_hw = np.zeros((len(segmentations), 2), dtype=np.int64)
    for index in np.flatnonzero(~has_shape).tolist():
        value = segmentations[index]
        if type(value) is list:
            has_shape[index] = segmentation_fault(value, None) is None
        elif is_rle(value) and max(value["size"]) < _LARGEST_SIDE:
            has_shape[index], rle_hw[index] = True, value["size"]
    return has_shape, rle_hw
