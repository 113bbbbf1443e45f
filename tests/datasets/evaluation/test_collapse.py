"""Detections that are the same in all images are reported, others are not."""

import numpy as np
import pytest

from datasets.coco_eval import CocoEvaluator
from datasets.evaluation.collapse import explain_collapse
from tests.datasets.coco_cases import (
    HEIGHT,
    WIDTH,
    annotation,
    coco_of,
    prediction,
    run_evaluator,
)

MEAN_BOX = np.array([75.0, 50.0, 150.0, 100.0])
SIZE = np.array([WIDTH, HEIGHT] * 2)


def boxes_anywhere(rng, count):
    """Boxes [count, 4], xywh in pixels."""
    sides = rng.uniform(0.2, 0.5, (count, 2))
    return np.concatenate([rng.uniform(0, 1 - sides), sides], axis=1) * SIZE


def truth_of(boxes_by_image):
    anns = [(i + 1, box) for i, boxes in enumerate(boxes_by_image) for box in boxes.tolist()]
    annotations = [annotation(n + 1, box, image_id) for n, (image_id, box) in enumerate(anns)]
    return coco_of(annotations, len(boxes_by_image))


def shaken(boxes, rng, by):
    return boxes + rng.normal(0, by, boxes.shape) * SIZE


def entries_of(boxes_by_image, rng, category_id=1):
    return [
        {"image_id": i + 1, "category_id": category_id, "bbox": box, "score": float(score)}
        for i, boxes in enumerate(boxes_by_image)
        for box, score in zip(boxes.tolist(), rng.random(len(boxes)), strict=True)
    ]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("per_image", [1, 3])
def test_the_same_boxes_in_all_images(rng, per_image):
    truth = truth_of([boxes_anywhere(rng, per_image) for _ in range(12)])
    queries = boxes_anywhere(rng, per_image)
    found = [shaken(queries, rng, 0.003) for _ in range(12)]
    sentence = explain_collapse(truth, entries_of(found, rng), training=True)
    assert "\n" not in sentence and "normal in the first epochs" in sentence
    assert ("box hardly differs" if per_image == 1 else "3 boxes hardly differ") in sentence
    evaluated = explain_collapse(truth, entries_of(found, rng))
    assert "first epochs" not in evaluated and "AP is not meaningful yet" in evaluated


def test_many_queries_at_the_average_box_with_scores_in_any_order(rng):
    truth = truth_of([boxes_anywhere(rng, 2) for _ in range(20)])
    queries = shaken(np.tile(MEAN_BOX, (30, 1)), rng, 0.01)
    found = [queries for _ in range(20)]
    assert explain_collapse(truth, entries_of(found, rng))


@pytest.mark.parametrize("num_images", [5, 40])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_boxes_that_follow_the_objects(rng, noise, num_images):
    objects = [boxes_anywhere(rng, int(rng.integers(1, 4))) for _ in range(num_images)]
    found = [shaken(boxes, rng, noise) for boxes in objects]
    assert explain_collapse(truth_of(objects), entries_of(found, rng)) is None


def test_a_few_different_queries_with_scores_in_any_order(rng):
    truth = truth_of([boxes_anywhere(rng, 2) for _ in range(20)])
    queries = boxes_anywhere(rng, 4)
    assert explain_collapse(truth, entries_of([queries] * 20, rng))


@pytest.mark.parametrize(("share", "collapsed"), [(0.05, True), (0.25, False), (0.5, False)])
def test_part_of_the_way_from_the_average_box_to_the_object(rng, share, collapsed):
    objects = [boxes_anywhere(rng, 1) for _ in range(30)]
    found = [share * boxes + (1 - share) * MEAN_BOX for boxes in objects]
    assert bool(explain_collapse(truth_of(objects), entries_of(found, rng))) == collapsed


def test_objects_that_are_in_the_same_place(rng):
    objects = [shaken(MEAN_BOX[None], rng, 0.01) for _ in range(20)]
    assert explain_collapse(truth_of(objects), entries_of([MEAN_BOX[None]] * 20, rng)) is None


def test_few_images_tell_nothing(rng):
    truth = truth_of([boxes_anywhere(rng, 1) for _ in range(4)])
    assert explain_collapse(truth, entries_of([MEAN_BOX[None]] * 4, rng)) is None
    assert explain_collapse(coco_of([], 9), []) is None


def test_boxes_are_compared_relative_to_the_image(rng):
    truth = truth_of([boxes_anywhere(rng, 1) for _ in range(12)])
    scales = rng.uniform(0.3, 3, (12, 2))
    for image, (x, y) in zip(truth.imgs.values(), scales, strict=True):
        image.update(width=WIDTH * x, height=HEIGHT * y)
    for entry in truth.anns.values():
        x, y = scales[entry["image_id"] - 1]
        entry["bbox"] = (np.array(entry["bbox"]) * [x, y, x, y]).tolist()
    found = [MEAN_BOX[None] * [x, y, x, y] for x, y in scales]
    assert explain_collapse(truth, entries_of(found, rng))
    assert explain_collapse(truth, entries_of([MEAN_BOX[None]] * 12, rng)) is None


def test_categories_without_ground_truth_and_crowds_are_not_looked_at(rng):
    objects = [boxes_anywhere(rng, 1) for _ in range(12)]
    truth = truth_of(objects)
    whole_image = entries_of([np.array([[0.0, 0, WIDTH, HEIGHT]])] * 12, rng, category_id=99)
    found = [{**entry, "score": 0.1} for entry in entries_of(objects, rng)]
    assert explain_collapse(truth, [*found, *whole_image]) is None
    for entry in truth.anns.values():
        entry["iscrowd"] = 1
    assert explain_collapse(truth, entries_of([MEAN_BOX[None]] * 12, rng)) is None


def test_boxes_without_area_and_images_without_size(rng):
    objects = [boxes_anywhere(rng, 1) for _ in range(12)]
    objects[3][0, 2:] = objects[9][0, 2:] = 0
    truth = truth_of(objects)
    assert explain_collapse(truth, entries_of(objects, rng)) is None
    for image in truth.imgs.values():
        del image["width"]
    assert explain_collapse(truth, entries_of([MEAN_BOX[None]] * 12, rng)) is None


def test_of_an_evaluation(rng):
    truth = truth_of([boxes_anywhere(rng, 1) for _ in range(8)])
    found = {i: prediction([MEAN_BOX.tolist()]) for i in truth.imgs}
    evaluator = run_evaluator(CocoEvaluator(truth, ["bbox"]), found)
    sentence = explain_collapse(evaluator.coco_gt, evaluator.detections("bbox"))
    assert "mean IoU 1.00 across images" in sentence
