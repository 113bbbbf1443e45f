import contextlib
import io

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from datasets.evaluation.matching import (
    best_thresholds,
    images_with_boxes,
    match_all,
    match_image,
)
from tests.datasets.evaluation.detection_cases import coco_of, random_case


def outcome_in_pycocotools(coco, detections):
    """Score, class and correctness of each detection that counts, and numbers of objects."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.evaluate()
    outcome, objects = [], {}
    for one in evaluation.evalImgs:
        if one is None or one["aRng"] != evaluation.params.areaRng[0]:
            continue
        label = one["category_id"]
        number = int((np.asarray(one["gtIgnore"]) == 0).sum())
        objects[label] = objects.get(label, 0) + number
        ignored = np.asarray(one["dtIgnore"][0], bool)
        for score, match, skip in zip(one["dtScores"], one["dtMatches"][0], ignored, strict=True):
            if not skip:
                outcome.append((score, label, match > 0))
    return sorted(outcome), {label: n for label, n in objects.items() if n}


@pytest.mark.parametrize("seed", range(12))
def test_outcome_is_that_of_pycocotools(seed):
    coco, detections = random_case(seed)
    matches = match_all(images_with_boxes(coco, detections))
    found = zip(matches.scores, matches.labels, matches.is_correct, strict=True)
    expected, objects = outcome_in_pycocotools(coco, detections)
    assert sorted(found) == expected
    assert matches.num_objects == objects


def entry(score, category_id=1, image_id=1, box=(0, 0, 10, 10)):
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(box),
        "score": score,
    }


def test_any_number_of_detections_of_an_image_counts():
    coco = coco_of([], num_images=2)
    scores = np.linspace(0, 1, 150).tolist()
    detections = [entry(score) for score in scores] + [entry(0.3, image_id=2)]
    one, two = images_with_boxes(coco, detections)
    assert one.scores.tolist() == scores[::-1] and two.scores.tolist() == [0.3]


def test_the_threshold_of_a_dense_image_is_that_of_all_its_detections():
    boxes = [[x, 0, 8, 8] for x in range(0, 1500, 10)]
    coco = coco_of([{"image_id": 1, "category_id": 1, "bbox": box} for box in boxes])
    scores = np.linspace(0.9, 0.5, len(boxes)).tolist()
    found = [entry(score, box=box) for score, box in zip(scores, boxes, strict=True)]
    false = [entry(0.4, box=[x, 500, 8, 8]) for x in range(0, 1500, 10)]
    thresholds = best_thresholds(coco, found + false)
    assert thresholds == {"best_f1": 0.5, "by_class": {1: 0.5}}


def test_low_scores_foreign_classes_and_other_images_do_not_count():
    coco = coco_of([], num_images=3)
    detections = [entry(0.9), entry(0.1), entry(0.8, category_id=77), entry(0.7, image_id=3)]
    images = list(images_with_boxes(coco, detections, image_ids=[1, 2], min_score=0.5))
    assert [image.scores.tolist() for image in images] == [[0.9], []]


def test_a_detection_in_a_crowd_is_ignored_unless_it_has_an_object():
    box, base = [0, 0, 100, 100], {"image_id": 1, "category_id": 1}
    coco = coco_of([{**base, "bbox": box, "iscrowd": 1}, {**base, "bbox": [0, 0, 10, 10]}])
    found = [entry(0.9), entry(0.8), entry(0.7, category_id=2)]
    (image,) = images_with_boxes(coco, found)
    assert match_image(image).tolist() == [0, -2, -1]


def test_ids_may_be_text():
    coco = coco_of(
        [{"image_id": 1, "category_id": "cat", "bbox": [0, 0, 10, 10]}], categories=["cat", "dog"]
    )
    matches = match_all(images_with_boxes(coco, [entry(0.9, "cat"), entry(0.8, "dog")]))
    assert matches.is_correct.tolist() == [True, False] and matches.num_objects == {"cat": 1}


def test_nothing_at_all():
    matches = match_all([])
    assert len(matches.scores) == 0 and matches.num_objects == {}
