"""Detections matched to ground truth at IoU 0.5, as in the COCO evaluation."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO

from util.box_matching import match_classes

Entry = Mapping[str, Any]
IOU_THRESHOLD = 0.5
MAX_DETECTIONS = 100  # per image, as in the COCO evaluation


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
            are used, and the 100 highest scores of an image.
        image_ids: images to yield; default: all of ``ground_truth``, by id.
        min_score: detections with a lower score are ignored.
    """
    by_image = defaultdict(list)
    for entry in detections:
        if entry["score"] >= min_score and entry["category_id"] in ground_truth.cats:
            by_image[entry["image_id"]].append(entry)
    for image_id in sorted(ground_truth.imgs) if image_ids is None else image_ids:
        found = sorted(by_image[image_id], key=lambda e: -e["score"])[:MAX_DETECTIONS]
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
