"""Detect annotation files whose boxes are not in xywh pixels."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from datasets.annotations.coco_file import Row

# Boxes may exceed the image by this much (rounding).
EDGE_SLACK_PIXELS = 2.0
# A different format is suspected if more than this fraction of the boxes, and at least this number,
# are impossible as xywh pixels, and nearly all boxes are possible in the other format.
_SUSPICIOUS_FRACTION = 0.1
_SUSPICIOUS_COUNT = 3
_NEARLY_ALL = 0.98

LOOKS_LIKE = {
    "boxes_xyxy": "look like [x1, y1, x2, y2]; COCO uses [x, y, width, height]",
    "boxes_center": "look like [center x, center y, width, height]; COCO uses the top left corner",
    "boxes_normalized": "look like fractions of the image size; COCO uses pixels",
}


class SuspectedFormat(NamedTuple):
    """Suspected format of the boxes in a file.

    Attributes:
        kind: key of `LOOKS_LIKE`.
        impossible: (N,) bool, boxes that are impossible as xywh pixels.
    """

    kind: str
    impossible: np.ndarray


def box_arrays(
    rows: Sequence[Row], sizes_wh: Mapping[int, tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Convert the boxes of annotations to arrays.

    Args:
        rows: annotations with an ``image_id`` and a ``bbox`` of four finite numbers.
        sizes_wh: known image sizes: width and height in pixels by image id.

    Returns:
        Three float64 arrays (N, 2) in pixels: ``start`` (left, top), ``extent`` (width, height)
        and ``limits`` (width and height of the image, infinite where unknown).
    """
    numbers = chain.from_iterable(row["bbox"] for row in rows)
    boxes = np.fromiter(numbers, dtype=np.float64, count=4 * len(rows)).reshape(-1, 4)
    place_of = {image_id: place for place, image_id in enumerate(sizes_wh)}
    # Index -1: images of unknown size.
    sizes = np.array([*sizes_wh.values(), (math.inf, math.inf)], dtype=np.float64)
    places = (place_of.get(row["image_id"], -1) for row in rows)
    limits = sizes[np.fromiter(places, dtype=np.int64, count=len(rows))]
    return boxes[:, :2], boxes[:, 2:], limits


def limits_of(sizes_wh: np.ndarray) -> np.ndarray:
    """Convert image sizes (N, 2), 0 where unknown, to the ``limits`` of `box_arrays`."""
    return np.where((sizes_wh > 0).all(axis=1, keepdims=True), sizes_wh, math.inf)


def ignored_boxes(
    start: np.ndarray, extent: np.ndarray, limits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find boxes that training ignores; the arguments are the arrays of `box_arrays`.

    Returns:
        Two bool arrays (N,): boxes with zero area, and other boxes that lie outside their image.
    """
    empty = np.any(extent <= 0, axis=1)
    with np.errstate(over="ignore", invalid="ignore"):  # infinity compares correctly
        outside = np.any((start >= limits) | (start + extent <= 0), axis=1)
    return empty, np.logical_and(~empty, outside)


def suspect_format(
    start: np.ndarray, extent: np.ndarray, limits: np.ndarray
) -> SuspectedFormat | None:
    """Detect boxes that are fractions of the image, xyxy, or cxcywh.

    The arguments are the arrays of `box_arrays`. Returns None for plausible xywh pixels.
    """
    if not len(start):
        return None
    with np.errstate(over="ignore", invalid="ignore"):  # infinity compares correctly
        empty, highest, half = np.any(extent <= 0, axis=1), limits + EDGE_SLACK_PIXELS, extent / 2
        # Within the first pixel of the image, in any of the formats.
        in_first_pixel = ~empty & np.all(
            (start >= 0) & (start <= 1.001) & (extent <= 1.001) & (limits > 2), axis=1
        )
        beyond = np.any(start + extent > highest, axis=1)
        as_corners = np.all((extent > start) & (extent <= highest), axis=1)
        as_center = np.all((start - half >= -EDGE_SLACK_PIXELS) & (start + half <= highest), axis=1)
    for kind, impossible, explained in (
        ("boxes_normalized", in_first_pixel, in_first_pixel | empty),
        ("boxes_xyxy", beyond, as_corners),
        ("boxes_center", beyond, as_center),
    ):
        if _is_systematic(impossible, explained):
            return SuspectedFormat(kind, impossible)
    return None


def _is_systematic(impossible: np.ndarray, explained: np.ndarray) -> bool:
    """Whether many boxes are impossible, and nearly all boxes are possible in the other format."""
    count = int(impossible.sum())
    return (
        count >= _SUSPICIOUS_COUNT
        and count > _SUSPICIOUS_FRACTION * len(impossible)
        and float(explained.mean()) >= _NEARLY_ALL
    )
