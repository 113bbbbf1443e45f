"""Detections matched to ground truth at IoU 0.5, as in COCO; best score thresholds."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO

from util.box_matching import match_classes

Entry = Mapping[str, Any]
IOU_THRESHOLD = 0.5


class ImageBoxes(NamedTuple):
    """Detections and objects of an image.

    Attributes:
        image_id: id of the image.
        scores: (D,) in [0, 1], descending.
        labels: (D,) category ids.
        boxes_xywh: (D, 4) pixels.
        object_labels: (G,) category ids, without crowds.
        object_boxes_xywh: (G, 4) pixels.
        crowd_labels: (C,) category ids of crowds.
        crowd_boxes_xywh: (C, 4) pixels.
    """

    image_id: int
    scores: np.ndarray
    labels: np.ndarray
    boxes_xywh: np.ndarray
    object_labels: np.ndarray
    object_boxes_xywh: np.ndarray
    crowd_labels: np.ndarray
    crowd_boxes_xywh: np.ndarray


@dataclass(frozen=True)
class Matches:
    """All detections of a dataset, with the outcome of matching within their class.

    Attributes:
        scores: (N,) in [0, 1].
        labels: (N,) category ids.
        is_correct: (N,) whether a detection is matched to an object.
        num_objects: number of objects by category id, without crowds.
    """

    scores: np.ndarray
    labels: np.ndarray
    is_correct: np.ndarray
    num_objects: dict[Any, int]


def images_with_boxes(
    ground_truth: COCO,
    detections: Iterable[Entry],
    image_ids: Iterable[int] | None = None,
    min_score: float = 0,
) -> Iterator[ImageBoxes]:
    """Group detections and objects by image.

    Args:
        detections: COCO result entries with ``bbox``. As in AP, only classes of ``ground_truth``
            are used; unlike in AP, their number per image is not limited, as in `predict.py`.
        image_ids: images to yield; default: all of ``ground_truth``, by id.
        min_score: detections with a lower score are ignored.
    """
    by_image = defaultdict(list)
    for entry in detections:
        if entry["score"] >= min_score and entry["category_id"] in ground_truth.cats:
            by_image[entry["image_id"]].append(entry)
    for image_id in sorted(ground_truth.imgs) if image_ids is None else image_ids:
        found = sorted(by_image[image_id], key=lambda e: -e["score"])
        annotations = ground_truth.imgToAnns.get(image_id, [])
        objects = [a for a in annotations if not a.get("iscrowd")]
        crowds = [a for a in annotations if a.get("iscrowd")]
        yield ImageBoxes(
            image_id,
            np.array([e["score"] for e in found], dtype=np.float64),
            *_labels_and_boxes(found),
            *_labels_and_boxes(objects),
            *_labels_and_boxes(crowds),
        )


def match_image(image: ImageBoxes) -> np.ndarray:
    """Match the detections of an image at IoU 0.5, see `util.box_matching.match_classes`."""
    return match_classes(
        (image.labels, image.boxes_xywh),
        (image.object_labels, image.object_boxes_xywh),
        (image.crowd_labels, image.crowd_boxes_xywh),
        IOU_THRESHOLD,
    )


def match_all(images: Iterable[ImageBoxes]) -> Matches:
    """Match the detections of all images at IoU 0.5; ignored detections are left out."""
    scores, labels, correct = [np.empty(0)], [np.empty(0, object)], [np.empty(0, bool)]
    objects: Counter[Any] = Counter()
    for image in images:
        matched = match_image(image)
        counts = matched != -2
        scores.append(image.scores[counts])
        labels.append(image.labels[counts])
        correct.append(matched[counts] >= 0)
        objects.update(image.object_labels.tolist())
    return Matches(
        np.concatenate(scores),
        np.concatenate(labels),
        np.concatenate(correct),
        dict(objects),
    )


def _labels_and_boxes(entries: Sequence[Entry]) -> tuple[np.ndarray, np.ndarray]:
    labels = np.array([e["category_id"] for e in entries], dtype=object)  # ids may be text
    return labels, np.array([e["bbox"] for e in entries], dtype=np.float64).reshape(-1, 4)


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
