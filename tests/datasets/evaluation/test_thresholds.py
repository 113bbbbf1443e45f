import numpy as np
import pytest

from datasets.evaluation.matching import (
    Matches,
    best_operating_point,
    best_thresholds,
    images_with_boxes,
    match_all,
    operating_point,
)
from tests.datasets.evaluation.detection_cases import coco_of, random_case


def matches_of(outcome, **num_objects):
    """From (score, class, is correct)."""
    scores, labels, correct = zip(*outcome, strict=True)
    return Matches(
        np.array(scores), np.array(labels, object), np.array(correct, bool), dict(num_objects)
    )


def naive_best(matches, category_id=None):
    """Threshold and F1 of a loop over all scores; the highest threshold of equal F1."""
    own = [
        (score, correct)
        for score, label, correct in zip(
            matches.scores, matches.labels, matches.is_correct, strict=True
        )
        if category_id in (None, label)
    ]
    objects = (
        sum(matches.num_objects.values())
        if category_id is None
        else matches.num_objects[category_id]
    )
    best = None
    for threshold in sorted({score for score, _ in own}, reverse=True):
        kept = [correct for score, correct in own if score >= threshold]
        f1 = 2 * sum(kept) / (len(kept) + objects)
        if f1 > 0 and (best is None or f1 > best[1]):
            best = float(threshold), f1
    return best


@pytest.mark.parametrize("seed", range(10))
def test_no_threshold_is_better(seed):
    matches = match_all(images_with_boxes(*random_case(seed)))
    matches.scores[:] = matches.scores.round(1)  # with ties
    for category_id in (None, *matches.num_objects):
        found, expected = (
            best_operating_point(matches, category_id),
            naive_best(matches, category_id),
        )
        if expected is None:
            assert found is None
        else:
            assert (found.threshold, found.f1) == pytest.approx(expected)


def test_by_hand():
    outcome = [(0.9, "a", True), (0.8, "b", False), (0.7, "a", True), (0.6, "a", False)]
    matches = matches_of(outcome, a=3, b=1)
    assert best_operating_point(matches) == pytest.approx((0.7, 2 / 3, 2 / 4, 4 / 7))
    assert best_operating_point(matches, "a") == pytest.approx((0.7, 1, 2 / 3, 4 / 5))
    assert best_operating_point(matches, "b") is None
    assert operating_point(matches, 0.75) == pytest.approx((0.75, 1 / 2, 1 / 4, 2 / 6))
    assert operating_point(matches, 0.95) == (0.95, 0, 0, 0)


def test_detections_of_equal_score_count_together():
    matches = matches_of([(0.5, "a", True), (0.5, "a", False), (0.5, "a", False)], a=1)
    assert best_operating_point(matches) == pytest.approx((0.5, 1 / 3, 1, 1 / 2))


def test_entry_of_a_checkpoint():
    box, image = [0, 0, 10, 10], {"image_id": 1}
    truth = [{**image, "category_id": i, "bbox": box} for i in (1, 2)]
    found = [{**image, "category_id": 1, "bbox": box, "score": 0.25}]
    assert best_thresholds(coco_of(truth), found) == {"best_f1": 0.25, "by_class": {1: 0.25}}
    assert best_thresholds(coco_of(truth), []) is None
    assert best_thresholds(coco_of(truth, 2), found, image_ids=[2]) is None
