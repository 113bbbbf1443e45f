"""Check segmentations and convert them to RLE.

pycocotools does not check its input: polygons far outside the image exhaust memory or crash, and
run lengths that do not fill a mask expose uninitialized memory. Every segmentation is therefore
checked here first.

- polygons: lists x, y, x, y, … in pixels, with at least three points.
- RLE: ``size`` [height, width], and ``counts``: alternating background and foreground run lengths
  in column-major order, as a list or as COCO's compressed string. The string is little-endian base
  32 (offset "0", continuation bit 32); from the fourth number on, each is stored as the difference
  from the number two before it.
"""

import re
from itertools import pairwise
from typing import Any, TypeGuard

import numpy as np
from pycocotools import mask as coco_mask

from datasets.annotations.coco_file import Row, are_numbers
from util.text import shortened

LONGEST_OUTLINE = 4_000_000  # pixels; also the largest coordinate of a polygon
MAX_MASK_PIXELS = 2**32  # in all masks of an image together, one byte each

# Six characters hold 30 bits, more than a mask has pixels.
_COMPRESSED = re.compile(rb"(?:[P-o]{0,5}[0-O])+")


def is_rle(segmentation: Any) -> TypeGuard[Row]:
    """Whether a segmentation is an RLE whose runs add up to its size."""
    if type(segmentation) is not dict:
        return False
    size = segmentation.get("size")
    if type(size) is not list or len(size) != 2 or any(type(side) is not int for side in size):
        return False
    return min(size) > 0 and _total_length(segmentation.get("counts")) == size[0] * size[1]


def _total_length(counts: Any) -> int | None:
    """Sum of all runs; None for invalid counts."""
    if type(counts) is list:
        are_runs = all(type(count) is int and count >= 0 for count in counts)
        return sum(counts) if are_runs else None
    if type(counts) is str:
        counts = counts.encode("utf-8", "replace")
    if type(counts) is not bytes or not _COMPRESSED.fullmatch(counts):
        return None
    lengths = run_lengths(counts)
    return int(lengths.sum()) if lengths.min() >= 0 else None


def run_lengths(compressed: bytes) -> np.ndarray:
    """Decode the run lengths, (N,) int64, of a compressed RLE.

    >>> run_lengths(b"52203").tolist()
    [5, 2, 2, 2, 5]
    """
    groups = np.frombuffer(compressed, dtype=np.uint8).astype(np.int64) - ord("0")
    ends = np.flatnonzero(groups < 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(groups)) - np.repeat(starts, ends - starts + 1)
    numbers = np.add.reduceat((groups % 32) << (5 * place), starts)
    is_negative = groups[ends] >= 16
    numbers -= is_negative.astype(np.int64) << (5 * (place[ends] + 1))
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def usable_polygons(segmentation: Any) -> list[list[float]]:
    """Return the polygons of a segmentation that have three or more points and can be drawn."""
    if type(segmentation) is not list:
        return []
    return [polygon for polygon in segmentation if _is_polygon(polygon) and _is_drawable(polygon)]


def has_endless_polygon(segmentation: Any) -> bool:
    """Whether a polygon is too long or too far outside the image to be drawn."""
    return type(segmentation) is list and any(
        _is_polygon(polygon) and not _is_drawable(polygon) for polygon in segmentation
    )


def _is_polygon(value: Any) -> bool:
    return are_numbers(value) and len(value) >= 6 and len(value) % 2 == 0


def _is_drawable(polygon: list[float]) -> bool:
    """Whether the outline of a polygon has at most `LONGEST_OUTLINE` pixels."""
    reach = max(max(polygon), -min(polygon))
    if reach > LONGEST_OUTLINE:
        return False
    if reach * len(polygon) <= LONGEST_OUTLINE:  # no edge is longer than twice the reach
        return True
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    edges = pairwise([*points, points[0]])
    return sum(max(abs(x2 - x1), abs(y2 - y1)) for (x1, y1), (x2, y2) in edges) <= LONGEST_OUTLINE


def encode_segmentation(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Convert a segmentation to a pycocotools RLE with compressed counts.

    Args:
        segmentation: a list of polygons, whose union is taken, or an RLE.
        height: height of the image in pixels.
        width: width of the image in pixels.

    Raises:
        ValueError: if there is no polygon of three or more points, or the RLE has a different size.
    """
    if is_rle(segmentation):
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(
                f"the RLE has size {segmentation['size']}, but the image {[height, width]}"
            )
        if isinstance(segmentation["counts"], list):
            return coco_mask.frPyObjects(segmentation, height, width)
        return segmentation
    polygons = usable_polygons(segmentation)
    if not polygons:
        raise ValueError(
            f"segmentation {shortened(segmentation)} is neither polygons of three or more points "
            "nor an RLE"
        )
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))


def encode_masks(masks: np.ndarray) -> list[dict[str, Any]]:
    """Encode masks (H, W, N) as RLE with ``counts`` as text."""
    rles = coco_mask.encode(np.asfortranarray(masks, dtype=np.uint8))
    return [{"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")} for rle in rles]
