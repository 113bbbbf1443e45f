"""Panoptic quality of segment maps.

A predicted and a true segment of the same category match if their IoU is above 0.5; void pixels of
the ground truth are removed from the union. No segment can have two matches, and crowds never
match. Other unmatched true segments are false negatives. Unmatched predicted segments are false
positives, unless more than half of their area is void or crowd of their category. For a category,

    SQ = mean IoU of the matches,  RQ = TP / (TP + FP / 2 + FN / 2),  PQ = SQ * RQ

PQ, SQ and RQ of a group are means over its categories with any TP, FP or FN.

Source: Kirillov et al., Panoptic Segmentation, CVPR 2019, sections 3 and 4; crowds as in the COCO
panoptic task.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from datasets.annotations.coco_file import Row
from datasets.annotations.panoptic import check_ids
from util.errors import UserError
from util.files.panoptic_png import VOID_ID

Quality = dict[str, Any]


class SegmentMap(NamedTuple):
    """Panoptic segmentation of an image.

    Attributes:
        id_map: (H, W) integers, the segment id of each pixel; 0 is void unless a prediction lists a
            segment 0.
        segments: dicts with ``id`` and ``category_id``, in the ground truth optionally ``iscrowd``.
    """

    id_map: np.ndarray
    segments: Sequence[Row]


class SegmentMatches(NamedTuple):
    """Matches between the predicted and the true segments of an image.

    Attributes:
        true_positives: category id and IoU of each match.
        false_positives: category ids of unmatched predicted segments.
        false_negatives: category ids of unmatched true segments.
    """

    true_positives: list[tuple[int, float]]
    false_positives: list[int]
    false_negatives: list[int]


def match_segments(truth: SegmentMap, predicted: SegmentMap, image_id: int) -> SegmentMatches:
    """Match the segments of an image.

    Raises:
        UserError: if the sizes differ, or a map does not match its list of segments.
    """
    if truth.id_map.shape != predicted.id_map.shape:
        raise UserError(
            f"image id {image_id}: the prediction has size {predicted.id_map.shape} (height, "
            f"width), the ground truth {truth.id_map.shape}; predict maps of the original image's "
            "size"
        )
    # Row and column 0 are void.
    overlap = _overlap(
        *_compact(truth, f"image id {image_id}: truth"),
        *_compact(predicted, f"image id {image_id}: prediction"),
    )
    iou = _iou_outside_void(overlap)
    same = _categories(truth)[:, None] == _categories(predicted)[None, :]
    crowd = np.array([bool(segment.get("iscrowd")) for segment in truth.segments], dtype=bool)
    pairs = np.argwhere(same & (iou > 0.5) & ~crowd[:, None])
    matched_truth, matched_predicted = set(pairs[:, 0].tolist()), set(pairs[:, 1].tolist())
    ignored = _mostly_void_or_crowd(overlap, same & crowd[:, None])
    return SegmentMatches(
        [(truth.segments[i]["category_id"], float(iou[i, j])) for i, j in pairs.tolist()],
        [
            segment["category_id"]
            for j, segment in enumerate(predicted.segments)
            if j not in matched_predicted and not ignored[j]
        ],
        [
            segment["category_id"]
            for i, segment in enumerate(truth.segments)
            if i not in matched_truth and not crowd[i]
        ],
    )


def _categories(segmented: SegmentMap) -> np.ndarray:
    return np.array([segment["category_id"] for segment in segmented.segments], dtype=np.int64)


def _compact(segmented: SegmentMap, where: str) -> tuple[np.ndarray, int]:
    """Replace segment ids by their index + 1, or 0 for void; also return the number of values."""
    ids = np.array([segment["id"] for segment in segmented.segments], dtype=np.int64)
    order = np.argsort(ids, kind="stable")
    known = ids[order]
    if (known[1:] == known[:-1]).any():
        raise UserError(f"{where} lists a segment id twice")
    places = np.searchsorted(known, segmented.id_map)
    places[places == len(known)] = 0
    listed = known[places] == segmented.id_map if len(known) else np.zeros_like(places, dtype=bool)
    compact = np.where(listed, order[places] + 1 if len(known) else 0, 0)
    present = np.bincount(compact.ravel(), minlength=len(ids) + 1)[1:] > 0
    stray = np.unique(segmented.id_map[~listed])
    if not present.all() or (stray != VOID_ID).any():
        check_ids({*ids[present].tolist(), *stray.tolist()}, set(ids.tolist()), where)
    return compact, len(ids) + 1


def _overlap(
    truth: np.ndarray, num_true: int, predicted: np.ndarray, num_predicted: int
) -> np.ndarray:
    """Count the common pixels of all pairs: (num_true, num_predicted)."""
    joint = truth.ravel() * num_predicted + predicted.ravel()
    return np.bincount(joint, minlength=num_true * num_predicted).reshape(num_true, num_predicted)


def _iou_outside_void(overlap: np.ndarray) -> np.ndarray:
    """IoU of all pairs of segments (T, P), from overlaps (1 + T, 1 + P) with void first."""
    true_area, predicted_area = overlap.sum(axis=1)[1:], overlap.sum(axis=0)[1:]
    inner = overlap[1:, 1:]
    union = true_area[:, None] + predicted_area[None, :] - inner - overlap[0, 1:]
    return inner / union


def _mostly_void_or_crowd(overlap: np.ndarray, own_crowd: np.ndarray) -> np.ndarray:
    """Whether predicted segments (P,) lie mostly in void or in crowds of their category.

    Args:
        overlap: (1 + T, 1 + P) pixels, void first.
        own_crowd: (T, P), whether the true segment is a crowd of the predicted category.
    """
    ignored_area = overlap[0, 1:] + (overlap[1:, 1:] * own_crowd).sum(axis=0)
    return ignored_area > 0.5 * overlap.sum(axis=0)[1:]


def summarize_matches(matches: Iterable[SegmentMatches], is_thing: Mapping[int, bool]) -> Quality:
    """Compute PQ, SQ and RQ over all images; the result does not depend on their order.

    Args:
        is_thing: whether each category id is a thing; other categories are ignored.

    Returns:
        ``All``, ``Things`` and ``Stuff``: dicts with the means ``pq``, ``sq``, ``rq`` in [0, 1]
        over the ``n`` categories that occur (0 if ``n`` is 0). ``per_class``: by category id a dict
        with ``pq``, ``sq``, ``rq`` (0 if the category does not occur) and the counts ``tp``,
        ``fp``, ``fn``.
    """
    ious: dict[int, list[float]] = {category: [] for category in is_thing}
    fp: Counter[int] = Counter()
    fn: Counter[int] = Counter()
    for image in matches:
        for category, iou in image.true_positives:
            ious[category].append(iou)
        fp.update(image.false_positives)
        fn.update(image.false_negatives)
    per_class = {c: _class_quality(ious[c], fp[c], fn[c]) for c in is_thing}
    groups = {
        "All": list(is_thing),
        "Things": [c for c, thing in is_thing.items() if thing],
        "Stuff": [c for c, thing in is_thing.items() if not thing],
    }
    return {
        **{name: _mean_quality([per_class[c] for c in ids]) for name, ids in groups.items()},
        "per_class": per_class,
    }


def _class_quality(ious: list[float], fp: int, fn: int) -> dict[str, float]:
    tp, total = len(ious), math.fsum(ious)
    weight = tp + 0.5 * fp + 0.5 * fn
    return {
        "pq": total / weight if weight else 0.0,
        "sq": total / tp if tp else 0.0,
        "rq": tp / weight if weight else 0.0,
        "tp": tp,
        "fp": fp,
        "fn": fn,
    }


def _mean_quality(classes: list[dict[str, float]]) -> dict[str, float]:
    present = [row for row in classes if row["tp"] + row["fp"] + row["fn"]]
    n = len(present)
    means = {
        name: math.fsum(row[name] for row in present) / n if n else 0.0
        for name in ("pq", "sq", "rq")
    }
    return {**means, "n": n}
