"""IoU of boxes in COCO's format, and greedy matching of detections to ground truth."""

from collections.abc import Sequence

import numpy as np

BoxesXYWH = np.ndarray | Sequence[Sequence[float]]


def iou_matrix(
    boxes_xywh: BoxesXYWH, others_xywh: BoxesXYWH, over_first: bool = False
) -> np.ndarray:
    """IoU of each pair of boxes.

    Args:
        boxes_xywh: (D, 4) left, top, width and height, in any unit.
        others_xywh: (G, 4) in the same unit.
        over_first: divide the intersection by the area of the first box, as COCO does for crowds.

    Returns:
        (D, G) in [0, 1]; 0 where both boxes are empty.

    >>> iou_matrix([[0, 0, 2, 2]], [[1, 0, 2, 2]]).round(2).tolist()
    [[0.33]]
    """
    first = np.asarray(boxes_xywh, dtype=np.float64).reshape(-1, 1, 4)
    second = np.asarray(others_xywh, dtype=np.float64).reshape(1, -1, 4)
    return iou(first, second, over_first)


def iou(first_xywh: np.ndarray, second_xywh: np.ndarray, over_first: bool = False) -> np.ndarray:
    """IoU of boxes, element by element with broadcasting; arguments as in `iou_matrix`.

    Args:
        first_xywh, second_xywh: (..., 4).

    Returns:
        (...) in [0, 1]; 0 where both boxes are empty.
    """
    left_top = np.maximum(first_xywh[..., :2], second_xywh[..., :2])
    ends = (boxes[..., :2] + boxes[..., 2:] for boxes in (first_xywh, second_xywh))
    intersection = (np.minimum(*ends) - left_top).clip(min=0).prod(axis=-1)
    areas = first_xywh[..., 2:].prod(axis=-1), second_xywh[..., 2:].prod(axis=-1)
    union = areas[0] + np.zeros_like(areas[1]) if over_first else sum(areas) - intersection
    result: np.ndarray = np.divide(
        intersection, union, out=np.zeros_like(intersection), where=union > 0
    )
    return result


def match_greedily(iou: np.ndarray, threshold: float) -> np.ndarray:
    """Match detections to objects as COCO does: each gets the unmatched object of largest IoU.

    Args:
        iou: (D, G); rows sorted by descending score.
        threshold: smallest IoU of a match.

    Returns:
        (D,) int, the index of the object of each detection; -1 for none.

    >>> match_greedily(np.array([[0.6, 0.9], [0.7, 0.8], [0.9, 0.9]]), 0.5).tolist()
    [1, 0, -1]
    """
    matched = np.full(len(iou), -1)
    free = iou.copy()
    for detection in np.flatnonzero((iou >= threshold).any(axis=1)):
        best = free[detection].argmax()
        if free[detection, best] >= threshold:
            matched[detection] = best
            free[:, best] = -1
    return matched


def match_classes(
    found: tuple[np.ndarray, BoxesXYWH],
    objects: tuple[np.ndarray, BoxesXYWH],
    crowds: tuple[np.ndarray, BoxesXYWH],
    threshold: float,
) -> np.ndarray:
    """Match detections to objects of their class.

    Args:
        found: labels and boxes of the detections, sorted by descending score.
        threshold: minimum IoU of a match; for crowds, minimum fraction of a detection inside.

    Returns:
        (D,) int, the index of the object of each detection; -1: none, a false positive; -2: only
        a crowd of its class, so that it is ignored.
    """
    (labels, boxes), (object_labels, object_boxes), (crowd_labels, crowd_boxes) = (
        (labels, np.asarray(boxes, dtype=np.float64).reshape(-1, 4))
        for labels, boxes in (found, objects, crowds)
    )
    matched = np.full(len(labels), -1)
    for label in np.intersect1d(labels, object_labels):
        of_class, same = np.flatnonzero(labels == label), np.flatnonzero(object_labels == label)
        match = match_greedily(iou_matrix(boxes[of_class], object_boxes[same]), threshold)
        matched[of_class[match >= 0]] = same[match[match >= 0]]
    if len(crowd_labels):
        covered = iou_matrix(boxes, crowd_boxes, over_first=True) >= threshold
        in_crowd = (covered & (labels[:, None] == crowd_labels)).any(axis=1)
        matched[(matched == -1) & in_crowd] = -2
    return matched
