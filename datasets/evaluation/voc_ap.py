"""Average precision of boxes by the rules of Pascal VOC, at an IoU of 0.5.

Unlike in COCO's rules, a detection is compared only with the object of its class that it overlaps
most, even if a higher-scoring detection is already matched to it; the number of detections per
image is not limited; and detections of difficult objects are neither true nor false positives.

Source: Everingham et al., The Pascal Visual Object Classes (VOC) Challenge, IJCV 2010, section 4.2.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO

from datasets.annotations.coco_file import category_names
from datasets.coco_eval import CocoEvaluator
from datasets.evaluation.coco_scoring import Annotation
from util.box_matching import iou
from util.distributed.gathering import broadcast_object
from util.distributed.processes import is_main_process

_IOU_THRESHOLD = 0.5


class VocScores(NamedTuple):
    """Average precision in [0, 1], by category id.

    Attributes:
        all_point: area under the interpolated precision-recall curve, as since VOC 2010.
        eleven_point: mean interpolated precision at recall 0, 0.1, … 1, as in VOC 2007.
    """

    all_point: dict[int, float]
    eleven_point: dict[int, float]

    def means(self) -> tuple[float, float]:
        """Mean over the classes, all-point and 11-point; -1 without classes."""
        return tuple(  # type: ignore[return-value]
            float(np.mean(list(by_class.values()))) if by_class else -1.0 for by_class in self
        )


class _Boxes(NamedTuple):
    """Boxes of a class: (N,) image ids and (N, 4) xywh in pixels."""

    image_ids: np.ndarray
    xywh: np.ndarray

    @classmethod
    def of(cls, entries: Collection[Annotation]) -> "_Boxes":
        """Boxes of COCO annotations or detections."""
        image_ids = np.array([entry["image_id"] for entry in entries], dtype=np.int64)
        boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64)
        return cls(image_ids, boxes.reshape(-1, 4))


def voc_statistics(evaluator: CocoEvaluator, print_table: bool = True) -> dict[str, float]:
    """Print VOC's AP of boxes by class, and return the means. Collective: call on every rank.

    Args:
        evaluator: evaluator of boxes, after ``synchronize_between_processes``.

    Returns:
        ``voc_ap50`` (all-point) and ``voc_ap50_11point`` in [0, 1], -1 without objects; empty if
        the ground truth has no VOC field ``difficult``.
    """
    if not is_voc(evaluator.coco_gt):
        return {}
    means = (-1.0, -1.0)
    if is_main_process():
        truth = evaluator.coco_gt
        scores = voc_ap50(truth, evaluator.detections("bbox"), evaluator.img_ids)
        if print_table:
            print(voc_table(scores, category_names(truth.cats.values())))
        means = scores.means()
    return dict(zip(("voc_ap50", "voc_ap50_11point"), broadcast_object(means), strict=True))


def is_voc(ground_truth: Any) -> bool:
    """Whether this is COCO ground truth whose objects have Pascal VOC's field ``difficult``."""
    objects = ground_truth.anns.values() if isinstance(ground_truth, COCO) else ()
    return any("difficult" in one for one in objects)


def voc_ap50(
    ground_truth: COCO, detections: Iterable[Annotation], image_ids: Collection[int]
) -> VocScores:
    """Compute the AP of each class that has objects in the evaluated images.

    Args:
        ground_truth: boxes xywh in pixels; objects with ``difficult`` or ``iscrowd`` 1 are ignored.
            VOC boxes include their last pixel: a box from xmin to xmax has
            x = xmin - 1 and width = xmax - xmin + 1.
        detections: COCO result entries with boxes; equal scores are ranked in this order.
        image_ids: the evaluated images.
    """
    evaluated = set(image_ids)
    objects_of = _by_class(
        one for one in ground_truth.anns.values() if one["image_id"] in evaluated
    )
    found_of = _by_class(detections)
    scores = VocScores({}, {})
    for category_id in sorted(objects_of):
        objects = sorted(objects_of[category_id], key=lambda one: one["image_id"])
        counts = np.array([not (one.get("difficult") or one.get("iscrowd")) for one in objects])
        if counts.any():
            found = sorted(found_of.get(category_id, []), key=lambda one: -one["score"])
            hits = _is_correct(_Boxes.of(found), _Boxes.of(objects), counts)
            scores.all_point[category_id] = all_point_ap(hits, int(counts.sum()))
            scores.eleven_point[category_id] = eleven_point_ap(hits, int(counts.sum()))
    return scores


def all_point_ap(hits: np.ndarray, num_objects: int) -> float:
    """Area under the interpolated precision-recall curve.

    Args:
        hits: (N,) bool, whether each detection is correct, by descending score.
        num_objects: number of objects, at least 1.
    """
    # Recall grows by 1 / num_objects with each hit.
    return float(_interpolated_precision(hits)[hits].sum() / num_objects)


def eleven_point_ap(hits: np.ndarray, num_objects: int) -> float:
    """Mean interpolated precision at eleven recalls; arguments as in `all_point_ap`."""
    precision = np.append(_interpolated_precision(hits), 0)
    # Integers: 3 of 10 objects are a recall of 0.3, which is not 3 * 0.1 in floating point.
    first = np.searchsorted(10 * np.cumsum(hits), num_objects * np.arange(11))
    return float(precision[first].mean())


def _interpolated_precision(hits: np.ndarray) -> np.ndarray:
    """Largest precision (N,) at this rank or a later one."""
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return np.maximum.accumulate(precision[::-1])[::-1]


def _is_correct(found: _Boxes, objects: _Boxes, counts: np.ndarray) -> np.ndarray:
    """Whether each detection is the first match of an object; matches of ignored objects: omitted.

    Args:
        found: detections by descending score.
        objects: by ascending image id.
        counts: (M,) bool, whether an object is not ignored.
    """
    overlap, nearest = _best_overlaps(found, objects)
    is_match = overlap >= _IOU_THRESHOLD
    is_ignored = is_match & ~counts[nearest]
    is_first = np.zeros(len(nearest), dtype=bool)
    matches = np.flatnonzero(is_match)
    is_first[matches[np.unique(nearest[matches], return_index=True)[1]]] = True
    return is_first[~is_ignored]


def _best_overlaps(found: _Boxes, objects: _Boxes) -> tuple[np.ndarray, np.ndarray]:
    """Largest IoU (N,) of each detection with an object of its image, and that object's index.

    Without objects in the image the IoU is 0 and the index 0.
    """
    start = np.searchsorted(objects.image_ids, found.image_ids, side="left")
    stop = np.searchsorted(objects.image_ids, found.image_ids, side="right")
    most = int((stop - start).max(initial=1))
    candidates = start[:, None] + np.arange(most)  # (N, most)
    exists = candidates < stop[:, None]
    candidates = np.where(exists, candidates, 0)
    overlaps = np.where(exists, iou(found.xywh[:, None], objects.xywh[candidates]), 0)
    best = overlaps.argmax(axis=1)[:, None]
    pick = (np.take_along_axis(values, best, axis=1)[:, 0] for values in (overlaps, candidates))
    return tuple(pick)  # type: ignore[return-value]


def _by_class(entries: Iterable[Annotation]) -> dict[int, list[Annotation]]:
    classes: dict[int, list[Annotation]] = {}
    for entry in entries:
        classes.setdefault(entry["category_id"], []).append(entry)
    return classes


def voc_table(scores: VocScores, names: Mapping[int, str]) -> str:
    """Format the scores as a table: a line per class, and the means.

    Args:
        scores: result of `voc_ap50`.
        names: class names by category id; default: the id.
    """
    rows = {names.get(i, str(i)): (scores.all_point[i], scores.eleven_point[i]) for i in scores[0]}
    rows["mean"] = scores.means()
    width = max(map(len, rows))
    lines = [f"{'VOC AP50':<{width}}  all-point  11-point"]
    lines += [
        f"{name:<{width}}  {area:>9.3f}  {eleven:>8.3f}" for name, (area, eleven) in rows.items()
    ]
    return "\n".join(lines)
