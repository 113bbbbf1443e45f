"""Check that segmentations agree with their boxes."""

import numpy as np

from datasets.annotations.segmentations import usable_polygons
from datasets.check.boxes import Boxes
from datasets.check.findings import Findings

_MIN_IOU = 0.5


def check_masks(findings: Findings, boxes: Boxes) -> None:
    """Find polygons that do not match their box; other checks report invalid segmentations."""
    for index, row in enumerate(boxes.rows):
        polygons = usable_polygons(row.get("segmentation"))
        if polygons and (iou := _iou(polygons, row["bbox"])) < _MIN_IOU:
            findings.add("mask_off_box", boxes.example(index, f"IoU {iou:.2f}"))


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
