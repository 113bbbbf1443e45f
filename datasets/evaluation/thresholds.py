"""Score thresholds with the best F1, over all classes and by class."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO

from datasets.evaluation.matching import Entry, Matches, images_with_boxes, match_all


class OperatingPoint(NamedTuple):
    """Quality of the detections with a score of at least ``threshold``, at IoU 0.5.

    Attributes:
        threshold: lowest score of a detection that counts.
        precision: fraction of the detections that are correct; 0 without detections.
        recall: fraction of the objects that are found.
        f1: harmonic mean of both.
    """

    threshold: float
    precision: float
    recall: float
    f1: float


def best_thresholds(
    ground_truth: COCO, detections: Iterable[Entry], image_ids: Iterable[int] | None = None
) -> dict[str, Any] | None:
    """Thresholds for the checkpoint key ``thresholds``.

    Args:
        ground_truth: of the evaluated images.
        detections: COCO result entries with ``bbox``, without a score threshold.
        image_ids: evaluated images; default: all of ``ground_truth``.

    Returns:
        ``best_f1``: threshold with the best F1 over all detections; ``by_class``: the same by
        category id, for classes with a correct detection. None if no detection is correct.
    """
    return _thresholds_of(match_all(images_with_boxes(ground_truth, detections, image_ids)))


def _thresholds_of(matches: Matches) -> dict[str, Any] | None:
    """`best_thresholds` of matched detections."""
    overall = best_operating_point(matches)
    if overall is None:
        return None
    by_class = {i: best_operating_point(matches, i) for i in sorted(matches.num_objects)}
    known = {i: point.threshold for i, point in by_class.items() if point is not None}
    return {"best_f1": overall.threshold, "by_class": known}


def best_operating_point(matches: Matches, category_id: int | None = None) -> OperatingPoint | None:
    """Threshold with the best F1 (the highest in a tie), with its precision and recall.

    F1 is computed at the score of every detection, so no other threshold has a higher F1.

    Args:
        category_id: class to consider; None: all together.

    Returns:
        None if no detection is correct.
    """
    scores, correct, num_objects = _of_class(matches, category_id)
    if not correct.any():
        return None
    order = np.argsort(-scores, kind="stable")
    scores, true_positives = scores[order], correct[order].cumsum()
    f1 = 2 * true_positives / (np.arange(1, len(scores) + 1) + num_objects)
    is_last_of_score = np.append(scores[1:] != scores[:-1], True)  # equal scores count together
    return operating_point(
        matches, float(scores[np.where(is_last_of_score, f1, -1).argmax()]), category_id
    )


def operating_point(
    matches: Matches, threshold: float, category_id: int | None = None
) -> OperatingPoint:
    """Precision, recall and F1 at a threshold, of one class or, for None, of all together."""
    scores, correct, num_objects = _of_class(matches, category_id)
    kept = scores >= threshold
    num_correct, num_kept = int((correct & kept).sum()), int(kept.sum())
    return OperatingPoint(
        threshold,
        num_correct / max(num_kept, 1),
        num_correct / max(num_objects, 1),
        2 * num_correct / max(num_kept + num_objects, 1),
    )


def _of_class(matches: Matches, category_id: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores, correctness, and number of objects of one class or, for None, of all classes."""
    if category_id is None:
        return matches.scores, matches.is_correct, sum(matches.num_objects.values())
    own = matches.labels == category_id
    return matches.scores[own], matches.is_correct[own], matches.num_objects.get(category_id, 0)
