"""Errors of a detector by kind, and its confusion matrix, at IoU 0.5 and a score threshold.

Source: Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020.
The kinds and both IoU thresholds are from TIDE. TIDE checks "mislocalized" before "wrong class";
here an IoU of 0.5 or more has precedence, see `ErrorKind`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np

from datasets.evaluation.matching import IOU_THRESHOLD, ImageBoxes, match_image
from util.box_matching import iou_matrix, match_greedily

BACKGROUND_IOU = 0.1  # below it a detection overlaps no object


class ErrorKind(Enum):
    """Kind of a detection (the first that applies), or an object that is missed.

    The IoU is with the objects of the image, without crowds. Detections matched to a crowd have no
    kind.
    """

    CORRECT = "correct"
    """Matched to an object of its class with an IoU of 0.5 or more."""
    DOUBLE = "double"
    """IoU of 0.5 or more with an object of its class that a higher-scoring detection matches."""
    WRONG_CLASS = "wrong class"
    """IoU of 0.5 or more with an object of another class."""
    MISLOCALIZED = "mislocalized"
    """IoU between 0.1 and 0.5 with an object of its class."""
    WRONG_BOTH = "wrong class and place"
    """IoU between 0.1 and 0.5 with an object of another class."""
    BACKGROUND = "background"
    """IoU below 0.1 with all objects."""
    MISSED = "missed"
    """An object without a correct detection that is also not the closest object of a wrong-class
    or mislocalized detection."""


@dataclass(frozen=True)
class ImageErrors:
    """Error kind of each detection of an image, and which objects were missed.

    Attributes:
        image: detections and objects.
        kinds: [D] kind of each detection; None: matched to a crowd, therefore ignored.
        matched: (D,) index of the object of each correct detection; below 0 for others.
        is_missed: (G,) whether an object is `ErrorKind.MISSED`.
    """

    image: ImageBoxes
    kinds: list[ErrorKind | None]
    matched: np.ndarray
    is_missed: np.ndarray

    def count(self) -> Counter[ErrorKind]:
        """Number of detections by kind, and of missed objects."""
        numbers = Counter(kind for kind in self.kinds if kind is not None)
        numbers[ErrorKind.MISSED] = int(self.is_missed.sum())
        return numbers


def errors_in(image: ImageBoxes) -> ImageErrors:
    """Classify the detections and the objects of an image.

    Args:
        image: only with the detections to classify, those at or above the score threshold.
    """
    matched = match_image(image)
    iou = iou_matrix(image.boxes_xywh, image.object_boxes_xywh)
    same = image.labels[:, None] == image.object_labels
    kinds: list[ErrorKind | None] = []
    explained = np.zeros(len(image.object_labels), bool)
    for own, other, object_index in zip(
        np.where(same, iou, 0), np.where(same, 0, iou), matched.tolist(), strict=True
    ):
        kind = _kind_of(own, other, object_index)
        if kind is ErrorKind.WRONG_CLASS:
            explained[other.argmax()] = True
        elif kind is ErrorKind.MISLOCALIZED:
            explained[own.argmax()] = True
        kinds.append(kind)
    unmatched = np.ones(len(image.object_labels), bool)
    unmatched[matched[matched >= 0]] = False
    return ImageErrors(image, kinds, matched, unmatched & ~explained)


def _kind_of(own: np.ndarray, other: np.ndarray, matched: int) -> ErrorKind | None:
    """Kind of a detection.

    Args:
        own: (G,) IoU with objects of its class, 0 for others.
        other: (G,) IoU with objects of other classes, 0 for others.
        matched: see `match_image`.
    """
    if matched == -2:
        return None
    if matched >= 0:
        return ErrorKind.CORRECT
    best_own, best_other = own.max(initial=0), other.max(initial=0)
    if best_own >= IOU_THRESHOLD:
        return ErrorKind.DOUBLE
    if best_other >= IOU_THRESHOLD:
        return ErrorKind.WRONG_CLASS
    if best_own >= BACKGROUND_IOU:
        return ErrorKind.MISLOCALIZED
    return ErrorKind.WRONG_BOTH if best_other >= BACKGROUND_IOU else ErrorKind.BACKGROUND


class Confusion(NamedTuple):
    """A confusion matrix with a row and a column for background.

    Attributes:
        counts: (K + 1, K + 1). Row: class of the object; last row: detections without an object.
            Column: class of the detection; last column: objects without a detection.
        category_ids: [K] category ids of the first K rows and columns.
    """

    counts: np.ndarray
    category_ids: list[int]


def confusion_matrix(errors: Iterable[ImageErrors], category_ids: list[int]) -> Confusion:
    """Count pairs of true and predicted classes.

    Correct detections are on the diagonal. The other detections, by descending score, are matched
    at IoU 0.5 to the remaining objects of any class; unmatched objects and detections are counted
    in the last column and row.

    Args:
        category_ids: category ids of the rows: all classes that occur.
    """
    row_of = {category_id: row for row, category_id in enumerate(category_ids)}
    nothing = len(category_ids)
    counts = np.zeros((nothing + 1, nothing + 1), dtype=np.int64)
    for one in errors:
        image = one.image
        pairs = _all_pairs(one)
        for index, kind in enumerate(one.kinds):
            column = row_of.get(image.labels[index])
            if kind is None or column is None:
                continue
            target = pairs[index]
            row = row_of[image.object_labels[target]] if target >= 0 else nothing
            counts[row, column] += 1
        for index in np.setdiff1d(np.arange(len(image.object_labels)), pairs):
            counts[row_of[image.object_labels[index]], nothing] += 1
    return Confusion(counts, category_ids)


def _all_pairs(errors: ImageErrors) -> np.ndarray:
    """(D,) index of the object matched to each detection, of its class or else of any; -1: none."""
    image, pairs = errors.image, errors.matched.clip(min=-1)
    left = np.flatnonzero(errors.matched == -1)
    objects = np.setdiff1d(np.arange(len(image.object_labels)), pairs)
    iou = iou_matrix(image.boxes_xywh[left], image.object_boxes_xywh[objects])
    found = match_greedily(iou, IOU_THRESHOLD)
    pairs[left[found >= 0]] = objects[found[found >= 0]]
    return pairs
