"""Check xywh boxes: other formats, outside the image, empty, tiny, oversized, duplicate."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from datasets.annotations.box_formats import (
    EDGE_SLACK_PIXELS,
    box_arrays,
    ignored_boxes,
    suspect_format,
)
from datasets.annotations.coco_file import Row, is_number
from datasets.annotations.segmentations import usable_polygons
from datasets.check.findings import Example, Findings, id_of
from util.text import box_in_words

_OVERSIZED = 2.0  # multiple of the width or height of the image
_TINY_PIXELS = 1.0
_WHOLE_IMAGE = 0.99  # fraction of the image area
_MAX_WHOLE_IMAGE_BOXES = 0.5  # fraction of all boxes
_MIN_BOXES = 10  # for this fraction
# A box with fractional sides can contain more pixels than its area.
_AREA_SLACK = 1.02
_MIN_IOU = 0.5


class Boxes(NamedTuple):
    """The boxes of a split; for the arrays see `box_arrays`.

    Attributes:
        rows: N annotations.
        start: (N, 2) left and top.
        extent: (N, 2) width and height.
        limits: (N, 2) width and height of the image, infinite where unknown.
        file_names: file name of each image id.
    """

    rows: Sequence[Row]
    start: np.ndarray
    extent: np.ndarray
    limits: np.ndarray
    file_names: Mapping[int, str]

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        sizes_wh: Mapping[int, tuple[int, int]],
        file_names: Mapping[int, str],
    ) -> "Boxes":
        """Collect the boxes of annotations.

        Args:
            rows: annotations with an ``image_id`` and a ``bbox`` of four finite numbers.
            sizes_wh: width and height in pixels by image id, where known.
        """
        return cls(rows, *box_arrays(rows, sizes_wh), file_names)

    def example(self, index: int, detail: str = "") -> Example:
        """Return the box at ``index`` as an example, with its coordinates."""
        row, (width, height) = self.rows[index], self.limits[index]
        box = f"bbox {box_in_words(row['bbox'])}"
        size = f"image {width:.0f}x{height:.0f}" if np.isfinite(width) else ""
        return _annotation_example(
            row, self.file_names, ", ".join(filter(None, [box, size, detail]))
        )

    def add_all(self, findings: Findings, kind: str, chosen: np.ndarray) -> None:
        """Add the boxes marked by ``chosen``, (N,) bool, to the findings."""
        for index in np.flatnonzero(chosen).tolist():
            findings.add(kind, self.example(index))


def _annotation_example(row: Row, file_names: Mapping[int, str], detail: str) -> Example:
    """Return an annotation of a listed image as an example."""
    return Example(
        image_id=row["image_id"],
        annotation_id=id_of(row.get("id")),
        category_id=row["category_id"],
        file_name=file_names.get(row["image_id"]),
        detail=detail,
    )


def check_boxes(findings: Findings, boxes: Boxes) -> None:
    """Add all suspicious boxes to the findings."""
    if not boxes.rows:
        return
    empty, outside = ignored_boxes(boxes.start, boxes.extent, boxes.limits)
    boxes.add_all(findings, "empty_box", empty)
    suspected = suspect_format(boxes.start, boxes.extent, boxes.limits)
    if suspected is not None:
        boxes.add_all(findings, suspected.kind, suspected.impossible)
    else:
        boxes.add_all(findings, "box_outside_image", outside)
        _check_places(findings, boxes, ~empty & ~outside)
    _check_areas(findings, boxes)
    _check_duplicates(findings, boxes)


def _check_places(findings: Findings, boxes: Boxes, inside: np.ndarray) -> None:
    """Find boxes that cross an edge of their image or have an implausible size.

    Args:
        findings: findings of the split; the boxes are added.
        inside: (N,) bool, boxes that overlap their image.
    """
    start, extent, limits = boxes.start, boxes.extent, boxes.limits
    with np.errstate(over="ignore", invalid="ignore"):  # comparisons with infinity are correct
        end = start + extent
        oversized = inside & np.any(extent > _OVERSIZED * limits, axis=1)
        off_limits = (start < -EDGE_SLACK_PIXELS) | (end > limits + EDGE_SLACK_PIXELS)
        clipped = np.minimum(end, limits) - np.maximum(start, 0)
        whole = inside & (clipped.prod(axis=1) >= _WHOLE_IMAGE * limits.prod(axis=1))
    over_edge = inside & ~oversized & np.any(off_limits, axis=1)
    boxes.add_all(findings, "oversized_box", oversized)
    boxes.add_all(findings, "box_beyond_edge", over_edge)
    boxes.add_all(findings, "tiny_box", inside & np.any(extent < _TINY_PIXELS, axis=1))
    if len(whole) >= _MIN_BOXES and whole.mean() > _MAX_WHOLE_IMAGE_BOXES:
        boxes.add_all(findings, "whole_image_boxes", whole)


def _check_areas(findings: Findings, boxes: Boxes) -> None:
    """Find areas that are impossible for the box."""
    for index, row in enumerate(boxes.rows):
        area: Any = row.get("area")
        width, height = map(float, row["bbox"][2:])
        if not is_number(area) or width <= 0 or height <= 0:
            continue  # reported by other checks
        if area <= 0 or area > _AREA_SLACK * (width + 1) * (height + 1):
            findings.add("wrong_area", boxes.example(index, f"area {area:.6g}"))


def _check_duplicates(findings: Findings, boxes: Boxes) -> None:
    """Find annotations with the class and box of another annotation of the image."""
    first: dict[tuple[float, ...], int] = {}
    for index, row in enumerate(boxes.rows):
        key = (row["image_id"], row["category_id"], *row["bbox"])
        earlier = first.setdefault(key, index)
        if earlier != index:
            detail = f"same as annotation id {boxes.rows[earlier].get('id')}"
            findings.add("duplicate_box", boxes.example(index, detail))


def check_masks(findings: Findings, boxes: Boxes) -> None:
    """Find polygons that do not match their box; other checks report invalid segmentations."""
    for index, row in enumerate(boxes.rows):
        polygons = usable_polygons(row.get("segmentation"))
        if polygons and (iou := _iou(polygons, row["bbox"])) < _MIN_IOU:
            findings.add("mask_box_mismatch", boxes.example(index, f"IoU {iou:.2f}"))


def _iou(polygons: list[list[float]], box_xywh: list[float]) -> float:
    """IoU of a box and the bounding box of polygons; 1 for an empty box (reported elsewhere)."""
    points = np.array([number for polygon in polygons for number in polygon], dtype=float)
    points = points.reshape(-1, 2)
    box = np.array(box_xywh, dtype=float)
    start, end = box[:2], box[:2] + box[2:]
    if np.any(end <= start):
        return 1.0
    low, high = points.min(axis=0), points.max(axis=0)
    shared = np.maximum(np.minimum(high, end) - np.maximum(low, start), 0).prod()
    union = (high - low).prod() + (end - start).prod() - shared
    return float(shared / union)
