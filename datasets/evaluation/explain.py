"""Explain an AP of -1 (no ground truth) or 0 (nothing found), and COCO's limit of detections."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as rle_tools
from pycocotools.coco import COCO

from datasets.annotations.coco_file import category_names, text_ids
from datasets.coco_eval import CocoEvaluator
from datasets.evaluation.coco_scoring import Annotation, CocoScore
from util.text import counted, first_of

# Values below this are printed as 0.000.
_PRINTED_AS_ZERO = 5e-4
MAX_LISTED = 8  # category ids or names

# Thresholds that distinguish wrong data from a bad model.
_MIN_FAULT_SHARE = 0.1
_LARGEST_NORMALIZED = 2.0
_SHARE_OUTSIDE_OF_WRONG_SCALE = 0.5
_SHARE_OF_OBJECTS_COVERED = 0.5
_SCORE_OF_AN_UNTRAINED_MODEL = 0.05
_MAX_IMAGES_COMPARED = 200

_CLASSES_LATER = "normal in the first epochs, before the model tells classes apart"


def explain_missing_ap(
    evaluator: CocoEvaluator, iou_type: str = "bbox", training: bool = False
) -> list[str]:
    """Explain results that are -1 or 0.

    Args:
        evaluator: evaluator after ``summarize()``.
        iou_type: "bbox" or "segm"; invalid boxes are detected for "bbox" only.
        training: whether the model is being trained on these classes.

    Returns:
        sentences, the most important first; empty if all results are above 0.
    """
    score, coco_gt = evaluator.coco_eval[iou_type], evaluator.coco_gt
    if (score.stats >= _PRINTED_AS_ZERO).all():
        return []
    objects = [
        annotation
        for image_id in score.params.imgIds
        for annotation in coco_gt.imgToAnns.get(image_id, [])
        if not annotation.get("iscrowd")
    ]
    nothing_to_find = _why_nothing_to_find(score, coco_gt, objects)
    if nothing_to_find:
        return [nothing_to_find]
    if score.stats[0] >= _PRINTED_AS_ZERO:
        return _size_ranges(score, also_missed=True)
    reasons = _why_nothing_found(coco_gt, objects, evaluator.detections(iou_type), training)
    return reasons + _size_ranges(score)


def explain_limit(evaluator: CocoEvaluator) -> str | None:
    """Report objects that count as missed because COCO limits the detections per image and class.

    Args:
        evaluator: evaluator of boxes after ``accumulate()``.

    Returns:
        a sentence; None if no image has more objects of a class than this limit.
    """
    params, coco_gt = evaluator.coco_eval["bbox"].params, evaluator.coco_gt
    counts = Counter(
        (image_id, annotation["category_id"])
        for image_id in params.imgIds
        for annotation in coco_gt.imgToAnns.get(image_id, [])
        if not annotation.get("iscrowd")
    )
    limit = params.maxDets[-1]
    excess = Counter({key: count - limit for key, count in counts.items() if count > limit})
    if not excess:
        return None
    (image_id, category_id), most = excess.most_common(1)[0]
    name = category_names(coco_gt.cats.values()).get(category_id, category_id)
    file_name = coco_gt.imgs[image_id].get("file_name")
    images_have = counted(len({image for image, _ in excess}), "images have")
    return (
        f"AP and AR count at most {limit} detections per image and class, as COCO does, but "
        f"{images_have} more objects of a class, such as {most + limit} of {name} in {file_name}: "
        f"{excess.total()} of {counts.total()} objects count as missed, whatever the model detects"
    )


class _Boxes(NamedTuple):
    """Result entries as arrays: ids (N,), labels (N,), boxes (N, 4) in xywh pixels."""

    image_ids: np.ndarray
    labels: np.ndarray
    boxes_xywh: np.ndarray


def _why_nothing_to_find(score: CocoScore, coco_gt: COCO, objects: list[Annotation]) -> str | None:
    """Explain why there is no ground truth; None if there is."""
    image_ids = score.params.imgIds
    if not image_ids:
        return "AP and AR are -1: no image was evaluated; is the validation set empty?"
    if not any(coco_gt.imgToAnns.get(i) for i in image_ids):
        return (
            f"AP and AR are -1: none of the {len(image_ids)} images evaluated has an annotation; "
            "check that the annotation file belongs to these images"
        )
    if not objects:
        return (
            "AP and AR are -1: the evaluated images have only crowd regions (iscrowd 1), which "
            "never count as objects"
        )
    if not score.objects_per_category.total():
        used = {annotation["category_id"] for annotation in objects}
        return (
            f"AP and AR are -1: the annotations use the category ids {_ids_in_file(used, coco_gt)},"
            f" but the evaluated categories are {_ids_in_file(score.params.catIds, coco_gt)}; "
            "correct the list 'categories' of the annotation file"
        )
    return None


def _size_ranges(score: CocoScore, also_missed: bool = False) -> list[str]:
    """Sentences about size ranges without ground truth, and optionally those with an AP of 0."""
    empty, missed = [], []
    for row, value in zip(score.summary_rows, score.stats, strict=True):
        if row.metric != "AP" or row.area == "all" or row.area not in score.params.areaRngLbl:
            continue
        low, high = score.params.areaRng[score.params.areaRngLbl.index(row.area)]
        sizes = f"{low**0.5:.0f}² to {high**0.5:.0f}² pixels"
        if value == -1:
            empty.append(
                f"AP and AR for {row.area} objects are -1: no ground-truth object has an area of "
                f"{sizes}"
            )
        elif value < _PRINTED_AS_ZERO:
            missed.append(
                f"AP for {row.area} objects is 0: hardly any ground-truth object with an area of "
                f"{sizes} is found by a detection of its class"
            )
    return empty + missed if also_missed else empty


def _why_nothing_found(
    coco_gt: COCO, objects: list[Annotation], detections: Sequence[Annotation], training: bool
) -> list[str]:
    """Explain why detections match no object."""
    if not detections:
        return ["AP is 0: no detections: the model found none, or a score threshold removed all"]
    image_ids = {annotation["image_id"] for annotation in objects}
    detections = [entry for entry in detections if entry["image_id"] in image_ids]
    if not detections:
        return ["AP is 0: no detection is for an image with ground truth; check the image ids"]
    low_scores = _low_scores(detections, training)
    disjoint = _labels_disjoint(coco_gt, objects, detections, training)
    reasons = [None if low_scores else disjoint]  # labels with low scores are meaningless
    if "bbox" in detections[0]:
        found = _columns(detections)
        fault = _box_fault(coco_gt, objects, found)
        reasons += [fault, None if fault or disjoint else _overlap_fault(objects, found, training)]
    reasons.append(low_scores)
    return [f"AP is 0: {reason}" for reason in reasons if reason] or [
        "AP is 0: hardly any detection matches a ground-truth object in position and class"
    ]


def _columns(detections: Sequence[Annotation]) -> _Boxes:
    return _Boxes(
        np.array([entry["image_id"] for entry in detections]),
        np.array([entry["category_id"] for entry in detections]),
        np.array([entry["bbox"] for entry in detections], dtype=np.float64),
    )


def _ids_in_file(category_ids: Iterable[int], coco_gt: COCO) -> str:
    """List the first category ids, as in the annotation file."""
    texts = text_ids(coco_gt.cats.values())
    return first_of([texts.get(number, number) for number in sorted(category_ids)], MAX_LISTED)


def _labels_disjoint(
    coco_gt: COCO, objects: list[Annotation], detections: Sequence[Annotation], training: bool
) -> str | None:
    """Detect labels that have no category id in common with the annotations."""
    detected = {entry["category_id"] for entry in detections}
    annotated = {annotation["category_id"] for annotation in objects}
    if detected & annotated:
        return None
    text = (
        f"the detections' labels ({_ids_in_file(detected, coco_gt)}) and the ground truth's "
        f"category ids ({_ids_in_file(annotated, coco_gt)}) have no id in common; "
    )
    if training:
        return text + _CLASSES_LATER
    for shift in (1, -1):
        if {label + shift for label in detected} & annotated:
            return text + f"labels may be off by one: adding {shift} makes some of them match"
    return text + "was the model trained with different classes?"


def _box_fault(coco_gt: COCO, objects: list[Annotation], found: _Boxes) -> str | None:
    """Detect predicted boxes that are not in xyxy pixels of the original image."""
    left_top, sides = found.boxes_xywh[:, :2], found.boxes_xywh[:, 2:]
    if (sides < 0).any(axis=1).mean() > _MIN_FAULT_SHARE:
        return (
            "many detected boxes have a negative width or height; they are probably xywh or "
            "cxcywh, but must be corners (x0, y0, x1, y1)"
        )
    largest = (left_top + sides).max()
    annotated = np.array([a["bbox"] for a in objects], dtype=np.float64)
    if largest <= _LARGEST_NORMALIZED < annotated.max():
        return (
            f"no coordinate of the detected boxes exceeds {largest:.2f}, so they are normalized; "
            "convert them to pixels of the original image (as PostProcess does, given sizes as "
            "height, width)"
        )
    sizes_wh = _image_sizes_wh(coco_gt, found.image_ids)
    outside = ((left_top + sides / 2) > sizes_wh).any(axis=1).mean()
    if outside > _SHARE_OUTSIDE_OF_WRONG_SCALE:
        return (
            f"{outside:.0%} of the detected boxes have their center outside the image; they were "
            "not scaled to the original image size"
        )
    return None


def _image_sizes_wh(coco_gt: COCO, image_ids: np.ndarray) -> np.ndarray:
    """Width and height (N, 2); infinite where unknown."""
    sizes = {
        int(i): (coco_gt.imgs[i].get("width", np.inf), coco_gt.imgs[i].get("height", np.inf))
        for i in np.unique(image_ids)
    }
    return np.array([sizes[int(i)] for i in image_ids], dtype=np.float64)


def _overlap_fault(objects: list[Annotation], found: _Boxes, training: bool) -> str:
    """Decide from the first images whether the classes or the positions of detections are wrong."""
    best_any, best_same = _best_overlaps(objects, found)
    if (best_any >= 0.5).mean() >= _SHARE_OF_OBJECTS_COVERED:
        return (
            f"{(best_any >= 0.5).mean():.0%} of the objects are covered by a detection (IoU at "
            "least 0.5), but hardly any by one of its class; "
            + (
                _CLASSES_LATER
                if training
                else "do training and evaluation use the same category ids?"
            )
        )
    return (
        "hardly any detection overlaps an object of its class with an IoU of 0.5 (mean over the "
        f"objects of the best IoU: {best_same.mean():.2f}), so the model needs more training"
    )


def _best_overlaps(objects: list[Annotation], found: _Boxes) -> tuple[np.ndarray, np.ndarray]:
    """Best IoU of each object in the first images.

    Returns:
        two arrays (objects,): best IoU with any detection, and with a detection of its class.
    """
    by_image = defaultdict(list)
    for annotation in objects:
        by_image[annotation["image_id"]].append(annotation)
    best_any, best_same = [], []
    for image_id, annotations in list(by_image.items())[:_MAX_IMAGES_COMPARED]:
        here = found.image_ids == image_id
        labels = np.array([annotation["category_id"] for annotation in annotations])
        boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64)
        ious = rle_tools.iou(
            found.boxes_xywh[here], boxes, [0] * len(boxes)
        )  # [detections, objects]
        ious = np.asarray(ious).reshape(-1, len(boxes))
        best_any.append(ious.max(axis=0, initial=0))
        same_class = found.labels[here][:, None] == labels
        best_same.append((ious * same_class).max(axis=0, initial=0))
    return np.concatenate(best_any), np.concatenate(best_same)


def _low_scores(detections: Sequence[Annotation], training: bool) -> str | None:
    highest = max(entry["score"] for entry in detections)
    if highest >= _SCORE_OF_AN_UNTRAINED_MODEL:
        return None
    if training:
        return f"the scores are still near zero (at most {highest:.3f}): normal in the first epochs"
    return (
        f"the highest score is {highest:.3f}: the model is not trained, or the wrong checkpoint "
        "was loaded"
    )
