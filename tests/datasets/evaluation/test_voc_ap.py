"""Average precision of Pascal VOC: against hand-computed cases, and against a naive loop."""

import numpy as np
import pytest

from datasets.evaluation.voc_ap import (
    VocScores,
    all_point_ap,
    eleven_point_ap,
    is_voc,
    voc_ap50,
    voc_table,
)
from tests.datasets.coco_cases import annotation, coco_of, random_case

BOX, OTHER, ELSEWHERE = (10, 10, 40, 40), (100, 100, 40, 40), (200, 10, 40, 40)


def detection(box, score, image_id=1, category_id=1):
    return {"image_id": image_id, "category_id": category_id, "bbox": list(box), "score": score}


def truth(*objects):
    """Ground truth of class 1: boxes, or boxes with other fields."""
    return coco_of([annotation(i + 1, *one) for i, one in enumerate(objects)])


def both(hits, num_objects):
    hits = np.array(hits, dtype=bool)
    return all_point_ap(hits, num_objects), eleven_point_ap(hits, num_objects)


# ---- the two forms, by hand


def test_all_found_first():
    assert both([1, 1, 0], 2) == (1, 1)


def test_nothing_found():
    assert both([], 2) == (0, 0) and both([0, 0], 2) == (0, 0)


def test_half_of_the_objects():
    # Precision 1 up to recall 0.5: recalls 0 to 0.5 are six of the eleven points.
    assert both([1, 0], 2) == (0.5, pytest.approx(6 / 11))


def test_precision_is_interpolated_from_later_ranks():
    # Precisions 0, 1/2, 2/3, 2/4, 3/5; interpolated 2/3 up to recall 2/4, 3/5 up to 3/4.
    area, eleven = both([0, 1, 1, 0, 1], 4)
    assert area == pytest.approx((2 / 3 + 2 / 3 + 3 / 5) / 4)
    assert eleven == pytest.approx((6 * 2 / 3 + 2 * 3 / 5) / 11)  # recalls 0 to 0.5, 0.6 and 0.7


@pytest.mark.parametrize("found", range(11))
def test_recalls_of_tenths_are_exact(found):
    assert both([1] * found, 10)[1] == pytest.approx((found + 1 if found else 0) / 11)


# ---- which detection is right


def score(coco, *detections):
    scores = voc_ap50(coco, detections, coco.imgs)
    assert scores.all_point.keys() == scores.eleven_point.keys()
    return scores.all_point


def test_an_object_is_found_once():
    duplicate = score(truth((BOX,), (OTHER,)), detection(BOX, 0.9), detection(BOX, 0.8))
    assert duplicate == {1: 0.5}
    third = [detection(BOX, 0.9), detection(BOX, 0.8), detection(OTHER, 0.7)]
    assert score(truth((BOX,), (OTHER,)), *third) == {1: pytest.approx((1 + 2 / 3) / 2)}


def test_a_detection_takes_the_object_that_it_overlaps_most_even_if_it_is_found():
    near = (12, 10, 40, 40)
    coco = truth((BOX,), (near,))
    # COCO would give the second detection the other object, with an IoU of 38 / 42.
    assert score(coco, detection(BOX, 0.9), detection(BOX, 0.8)) == {1: 0.5}


@pytest.mark.parametrize(("width", "expected"), [(20, 1), (19.99, 0)])
def test_an_iou_of_one_half_is_enough(width, expected):
    assert score(truth((BOX,)), detection((10, 10, width, 40), 0.9)) == {1: expected}


def test_difficult_objects_are_neither_missed_nor_found():
    coco = coco_of([annotation(1, BOX, difficult=0), annotation(2, OTHER, difficult=1)])
    # Two detections of the difficult object: no error.
    found = [detection(OTHER, 0.95), detection(OTHER, 0.9), detection(BOX, 0.8)]
    assert score(coco, *found) == {1: 1}
    assert score(coco, detection(ELSEWHERE, 0.95), detection(BOX, 0.8)) == {1: 0.5}


def test_a_class_with_difficult_objects_alone_has_no_score():
    assert score(coco_of([annotation(1, BOX, difficult=1)]), detection(BOX, 0.9)) == {}
    assert VocScores({}, {}).means() == (-1, -1)


def test_crowds_are_ignored_too():
    coco = coco_of([annotation(1, BOX), annotation(2, OTHER, iscrowd=1)])
    assert score(coco, detection(OTHER, 0.9), detection(BOX, 0.8)) == {1: 1}


def test_equal_scores_keep_their_order():
    coco = truth((BOX,))
    assert score(coco, detection(BOX, 0.5), detection(OTHER, 0.5)) == {1: 1}
    assert score(coco, detection(OTHER, 0.5), detection(BOX, 0.5)) == {1: 0.5}


def test_more_than_a_hundred_detections_count():
    wrong = [detection(ELSEWHERE, 0.9)] * 150
    assert score(truth((BOX,)), *wrong, detection(BOX, 0.1)) == {1: pytest.approx(1 / 151)}


def test_images_and_classes_are_apart():
    coco = coco_of([annotation(1, BOX, 1, 1), annotation(2, BOX, 2, 3)], num_images=3)
    found = [detection(BOX, 0.9, 2, 1), detection(BOX, 0.8, 1, 1), detection(BOX, 0.9, 2, 4)]
    assert score(coco, *found) == {1: 0.5, 3: 0}
    assert voc_ap50(coco, found, [2]).all_point == {3: 0}


def test_voc_is_recognized_by_its_field():
    assert is_voc(coco_of([annotation(1, BOX), annotation(2, BOX, difficult=0)]))
    assert not is_voc(coco_of([annotation(1, BOX)])) and not is_voc(coco_of([]))


def test_table():
    scores = VocScores({1: 1.0, 30: 0.5}, {1: 1.0, 30: 0.25})
    assert voc_table(scores, {1: "aeroplane"}).splitlines() == [
        "VOC AP50   all-point  11-point",
        "aeroplane      1.000     1.000",
        "30             0.500     0.250",
        "mean           0.750     0.625",
    ]


# ---- a naive loop


def naive_iou(first, second):
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    inner = max(width, 0) * max(height, 0)
    union = first[2] * first[3] + second[2] * second[3] - inner
    return inner / union if union > 0 else 0


def naive_scores(coco, detections):
    """The steps of the development kit, one detection after another."""
    areas, elevens = {}, {}
    for category_id in sorted({one["category_id"] for one in coco.anns.values()}):
        objects = [one for one in coco.anns.values() if one["category_id"] == category_id]
        num_objects = sum(not one.get("difficult") and not one["iscrowd"] for one in objects)
        if num_objects == 0:
            continue
        taken, right, wrong, curve = set(), 0, 0, []
        ranked = sorted(
            (one for one in detections if one["category_id"] == category_id),
            key=lambda one: -one["score"],
        )
        for found in ranked:
            best, best_iou = None, -1.0
            for one in objects:
                iou = naive_iou(found["bbox"], one["bbox"])
                if one["image_id"] == found["image_id"] and iou > best_iou:
                    best, best_iou = one, iou
            if best is not None and best_iou >= 0.5:
                if best.get("difficult") or best["iscrowd"]:
                    continue
                if best["id"] in taken:
                    wrong += 1
                else:
                    taken.add(best["id"])
                    right += 1
            else:
                wrong += 1
            curve.append((right, right / (right + wrong)))
        area, before = 0.0, 0
        for rank, (count, _) in enumerate(curve):
            area += (count - before) / num_objects * max(p for _, p in curve[rank:])
            before = count
        areas[category_id] = area
        points = [
            max((p for count, p in curve if 10 * count >= k * num_objects), default=0)
            for k in range(11)
        ]
        elevens[category_id] = sum(points) / 11
    return areas, elevens


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [False, True])
def test_against_a_loop(seed, ties):
    coco, predictions = random_case(seed, 8, ties=ties, whole_pixels=ties)
    rng = np.random.default_rng(seed)
    for one in coco.anns.values():
        one["difficult"] = int(rng.random() < 0.3)
    detections = [
        detection([*box[:2].tolist(), *(box[2:] - box[:2]).tolist()], score, image_id, label)
        for image_id, found in predictions.items()
        for box, label, score in zip(
            found["boxes"].double(), found["labels"].tolist(), found["scores"].tolist(), strict=True
        )
    ]
    areas, elevens = naive_scores(coco, detections)
    scores = voc_ap50(coco, detections, coco.imgs)
    assert scores.all_point == pytest.approx(areas, abs=1e-12) and areas
    assert scores.eleven_point == pytest.approx(elevens, abs=1e-12)
