"""Compare detections with ground truth: thresholds, errors, confusion and calibration."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO

from datasets.evaluation.error_kinds import (
    Confusion,
    ErrorKind,
    ImageErrors,
    confusion_matrix,
    errors_in,
)
from datasets.evaluation.matching import (
    Matches,
    OperatingPoint,
    best_operating_point,
    images_with_boxes,
    match_all,
)

_DEFAULT_THRESHOLD = 0.5
_NUM_BINS = 10
_NUM_CONFUSIONS = 10
_AREAS = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class Analysis:
    """Statistics of detections at IoU 0.5, as shown in the report.

    Attributes:
        matches: all detections, and whether each is correct.
        threshold: minimum score in ``errors`` and ``confusion``: the best-F1 threshold.
        best: precision, recall and F1 at ``threshold``; None if no detection is correct.
        by_class: the same at the best threshold of each class, by category id.
        errors: errors of each image.
        confusion: confusion matrix of the classes that occur.
    """

    matches: Matches
    threshold: float
    best: OperatingPoint | None
    by_class: dict[Any, OperatingPoint | None]
    errors: list[ImageErrors]
    confusion: Confusion

    def kinds(self) -> Counter[ErrorKind]:
        """Number of detections by kind, and of missed objects."""
        return sum((one.count() for one in self.errors), Counter())


def analyze(ground_truth: COCO, detections: Sequence[Mapping[str, Any]]) -> Analysis:
    """Compare detections with ground truth.

    Args:
        ground_truth: annotations of all evaluated images.
        detections: COCO result entries with ``bbox``.
    """
    matches = match_all(images_with_boxes(ground_truth, detections))
    best = best_operating_point(matches)
    threshold = _DEFAULT_THRESHOLD if best is None else best.threshold
    images = images_with_boxes(ground_truth, detections, min_score=threshold)
    errors = [errors_in(image) for image in images]
    occurring = {label for one in errors for label in one.image.labels} | matches.num_objects.keys()
    present = [i for i in ground_truth.cats if i in occurring]
    by_class = {i: best_operating_point(matches, i) for i in present}
    confusion = confusion_matrix(errors, present)
    return Analysis(matches, threshold, best, by_class, errors, confusion)


class Calibration(NamedTuple):
    """Scores compared with the fraction of correct detections, in score bins.

    Attributes:
        scores: (B,) mean score of each bin that is not empty.
        correct: (B,) fraction of correct detections.
        counts: (B,) number of detections.
        error: expected calibration error (Naeini et al., AAAI 2015): mean absolute difference of
            ``scores`` and ``correct``, weighted by ``counts``.
    """

    scores: np.ndarray
    correct: np.ndarray
    counts: np.ndarray
    error: float


def calibration(matches: Matches) -> Calibration:
    """Compute the calibration of scores in bins of equal width."""
    bins = (matches.scores * _NUM_BINS).astype(int).clip(max=_NUM_BINS - 1)
    counts = np.bincount(bins, minlength=_NUM_BINS)
    filled = counts > 0
    counts_filled = counts[filled].clip(1)
    scores = np.bincount(bins, matches.scores, _NUM_BINS)[filled] / counts_filled
    correct = np.bincount(bins, matches.is_correct, _NUM_BINS)[filled] / counts_filled
    error = float((np.abs(scores - correct) * counts_filled).sum() / max(counts.sum(), 1))
    return Calibration(scores, correct, counts[filled], error)


def top_confusions(confusion: Confusion) -> list[tuple[int, Any, Any]]:
    """The most frequent pairs of different classes: count, true and predicted category id."""
    counts = confusion.counts[:-1, :-1].copy()
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:_NUM_CONFUSIONS]
    rows, columns = np.unravel_index(order, counts.shape)
    ids = confusion.category_ids
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(int(counts[r, c]), ids[r], ids[c]) for r, c in pairs if counts[r, c]]


class ClassAP(NamedTuple):
    """AP of a class: mean over IoU 0.50 … 0.95, and at 0.50 and 0.75; NaN without objects."""

    ap: float
    ap50: float
    ap75: float


class SavedEvaluation:
    """Content of an ``eval*.pth`` file.

    Args:
        content: result of `util.plot_utils.load_eval`.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        params = content["params"]
        self._precision = np.asarray(content["precision"])  # (T, R, K, A, M)
        self._thresholds = np.asarray(params.iouThrs)
        self.category_ids: list[Any] = list(params.catIds)
        self.recall = np.asarray(params.recThrs)

    def by_class(self) -> dict[Any, ClassAP]:
        """AP by category id, for classes with objects."""
        table = {}
        for index, category_id in enumerate(self.category_ids):
            precision = self._precision[:, :, index, 0, -1]
            if (precision > -1).any():
                at = [self._mean(precision[self._index(iou)]) for iou in (0.5, 0.75)]
                table[category_id] = ClassAP(self._mean(precision), *at)
        return table

    def by_size(self) -> dict[str, float]:
        """AP of all, small, medium and large objects; sizes without objects are omitted."""
        means = {
            name: self._mean(self._precision[:, :, :, index, -1])
            for index, name in enumerate(_AREAS[: self._precision.shape[3]])
        }
        return {name: mean for name, mean in means.items() if mean == mean}

    def curve(self, iou: float, category_id: Any = None) -> np.ndarray:
        """Precision at each recall (R,), for a class or averaged over all classes (None)."""
        precision = self._precision[self._index(iou), :, :, 0, -1]
        if category_id is not None:
            result: np.ndarray = precision[:, self.category_ids.index(category_id)]
            return result
        known = precision[:, (precision > -1).all(axis=0)]
        return known.mean(axis=1) if known.size else np.full(len(self.recall), np.nan)

    def _index(self, iou: float) -> int:
        return int(np.abs(self._thresholds - iou).argmin())

    @staticmethod
    def _mean(values: np.ndarray) -> float:
        known = values[values > -1]
        return float(known.mean()) if known.size else float("nan")
