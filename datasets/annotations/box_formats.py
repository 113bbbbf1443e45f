"""Rules that recognise an annotation file whose boxes have another format than xywh pixels."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from datasets.annotations.coco_file import Row

# Edges are often exceeded by a rounding error; more than this speaks for a fault.
EDGE_SLACK_PIXELS = 2.0
# What makes a whole file suspicious: this share of its boxes (and this many) cannot be right, and
# nearly all would be in the other format.
_SUSPICIOUS_SHARE = 0.1
_SUSPICIOUS_COUNT = 3
_NEARLY_ALL = 0.98

LOOKS_LIKE = {
    "boxes_xyxy": "look like [x1, y1, x2, y2]; COCO has [x, y, width, height]",
    "boxes_centre": "look like [centre x, centre y, width, height]; COCO has the corner",
    "boxes_normalised": "look like fractions of the image, not pixels",
}


class SuspectedFormat(NamedTuple):
    """Another format that the boxes of a file seem to have.

    Attributes:
        kind: key of `LOOKS_LIKE`.
        impossible: (N,) bool, the boxes that cannot be right as xywh pixels.
    """

    kind: str
    impossible: np.ndarray


def box_arrays(
    rows: Sequence[Row], sizes_wh: Mapping[int, tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes of annotations as arrays.

    Args:
        rows: annotations with an ``image_id``, and a ``bbox`` of four finite numbers.
        sizes_wh: width and height in pixels of images by id, as far as known.

    Returns:
        ``start`` (N, 2) left and top, ``extent`` (N, 2) width and height, ``limits`` (N, 2) width
        and height of the image, infinite where unknown; float64, in pixels.
    """
    numbers = chain.from_iterable(row["bbox"] for row in rows)
    boxes = np.fromiter(numbers, dtype=np.float64, count=4 * len(rows)).reshape(-1, 4)
    place_of = {image_id: place for place, image_id in enumerate(sizes_wh)}
    # The last size stands for images of unknown size.
    sizes = np.array([*sizes_wh.values(), (math.inf, math.inf)], dtype=np.float64)
    places = (place_of.get(row["image_id"], -1) for row in rows)
    limits = sizes[np.fromiter(places, dtype=np.int64, count=len(rows))]
    return boxes[:, :2], boxes[:, 2:], limits


def useless_boxes(
    start: np.ndarray, extent: np.ndarray, limits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find boxes that training leaves out; arguments as returned by `box_arrays`.

    Returns:
        Two bool arrays (N,): boxes without area, and other boxes that lie outside their image.
    """
    empty = np.any(extent <= 0, axis=1)
    # Numbers near the end of the range of floats may overflow; infinity compares as it should.
    with np.errstate(over="ignore", invalid="ignore"):
        outside = np.any((start >= limits) | (start + extent <= 0), axis=1)
    return empty, np.logical_and(~empty, outside)


def suspect_format(
    start: np.ndarray, extent: np.ndarray, limits: np.ndarray
) -> SuspectedFormat | None:
    """Recognise boxes that are fractions of the image, corners, or centres with an extent.

    Args:
        start: (N, 2) left and top, if the boxes are xywh.
        extent: (N, 2) width and height.
        limits: (N, 2) width and height of the image, infinite where unknown.
    """
    if not len(start):
        return None
    # Numbers near the end of the range of floats may overflow; infinity compares as it should.
    with np.errstate(over="ignore", invalid="ignore"):
        empty, highest, half = np.any(extent <= 0, axis=1), limits + EDGE_SLACK_PIXELS, extent / 2
        # At most a pixel in the first pixel of an image: whichever corners or centre are meant.
        in_first_pixel = ~empty & np.all(
            (start >= 0) & (start <= 1.001) & (extent <= 1.001) & (limits > 2), axis=1
        )
        beyond = np.any(start + extent > highest, axis=1)
        as_corners = np.all((extent > start) & (extent <= highest), axis=1)
        as_centre = np.all((start - half >= -EDGE_SLACK_PIXELS) & (start + half <= highest), axis=1)
    for kind, impossible, explained in (
        ("boxes_normalised", in_first_pixel, in_first_pixel | empty),
        ("boxes_xyxy", beyond, as_corners),
        ("boxes_centre", beyond, as_centre),
    ):
        if _is_systematic(impossible, explained):
            return SuspectedFormat(kind, impossible)
    return None


def _is_systematic(impossible: np.ndarray, explained: np.ndarray) -> bool:
    """Whether enough boxes cannot be right as they are, and another format explains nearly all."""
    count = int(impossible.sum())
    return (
        count >= _SUSPICIOUS_COUNT
        and count > _SUSPICIOUS_SHARE * len(impossible)
        and float(explained.mean()) >= _NEARLY_ALL
    )
