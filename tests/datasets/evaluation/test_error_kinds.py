import numpy as np
import pytest

from datasets.evaluation.error_kinds import (
    ErrorKind,
    confusion_matrix,
    errors_in,
)
from datasets.evaluation.matching import images_with_boxes
from tests.datasets.evaluation.detection_cases import coco_of, random_case

BOX = [0, 0, 10, 10]
SHIFTED = [5, 0, 10, 10]  # IoU of 1/3 with BOX
FAR = [50, 50, 10, 10]


def errors_of(objects, detections):
    """Errors of an image with objects (class, box) and detections of falling score."""
    coco = coco_of([{"image_id": 1, "category_id": c, "bbox": box} for c, box in objects])
    found = [
        {"image_id": 1, "category_id": c, "bbox": box, "score": 0.9 - 0.1 * index}
        for index, (c, box) in enumerate(detections)
    ]
    (image,) = images_with_boxes(coco, found)
    return errors_in(image)


@pytest.mark.parametrize(
    ("detections", "kinds", "num_missed"),
    [
        ([(1, BOX)], ["correct"], 0),
        ([(1, BOX), (1, BOX)], ["correct", "double"], 0),
        ([(2, BOX)], ["wrong class"], 0),
        ([(2, BOX), (1, BOX)], ["wrong class", "correct"], 0),
        ([(1, SHIFTED)], ["mislocalized"], 0),
        ([(1, BOX), (1, SHIFTED)], ["correct", "mislocalized"], 0),
        ([(2, SHIFTED)], ["wrong class and place"], 1),
        ([(1, FAR)], ["background"], 1),
        ([], [], 1),
    ],
)
def test_kinds_by_hand(detections, kinds, num_missed):
    errors = errors_of([(1, BOX)], detections)
    assert [kind.value for kind in errors.kinds] == kinds
    assert errors.is_missed.sum() == num_missed == errors.count()[ErrorKind.MISSED]


def test_an_overlap_with_another_class_decides_before_a_smaller_one_with_the_own_class():
    errors = errors_of([(1, BOX), (2, SHIFTED)], [(2, [1, 0, 10, 10])])
    assert errors.kinds == [ErrorKind.WRONG_CLASS]
    assert errors.is_missed.tolist() == [False, True]


def test_thresholds_belong_to_the_better_kind():
    half, tenth = [0, 0, 10, 5], [0, 0, 10, 1]  # IoU of exactly 0.5 and 0.1 with BOX
    assert errors_of([(1, BOX)], [(1, half)]).kinds == [ErrorKind.CORRECT]
    assert errors_of([(1, BOX)], [(1, tenth)]).kinds == [ErrorKind.MISLOCALIZED]


def naive_iou(a, b):
    width = max(0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    height = max(0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def naive_kinds(coco, detections, image_id):
    """Kinds of detections by falling score, and number of missed objects, by their definition."""
    truth = [a for a in coco.imgToAnns[image_id] if not a["iscrowd"]]
    crowds = [a for a in coco.imgToAnns[image_id] if a["iscrowd"]]
    found = sorted((d for d in detections if d["image_id"] == image_id), key=lambda d: -d["score"])
    free, outcome = list(truth), []
    for d in found:
        partners = [
            a
            for a in free
            if a["category_id"] == d["category_id"] and naive_iou(a["bbox"], d["bbox"]) >= 0.5
        ]
        partner = max(partners, key=lambda a: naive_iou(a["bbox"], d["bbox"]), default=None)
        if partner is not None:
            free.remove(partner)
        outcome.append((d, partner))
    kinds, covered = [], []
    for d, partner in outcome:
        own = [a for a in truth if a["category_id"] == d["category_id"]]
        other = [a for a in truth if a["category_id"] != d["category_id"]]

        def best(annotations, d=d):
            pairs = [(naive_iou(a["bbox"], d["bbox"]), a["id"]) for a in annotations]
            return max(pairs, default=(0, None))

        def in_crowd(crowd, d=d):
            (x, y, w, h), (cx, cy, cw, ch) = d["bbox"], crowd["bbox"]
            width = max(0, min(x + w, cx + cw) - max(x, cx))
            height = max(0, min(y + h, cy + ch) - max(y, cy))
            same = crowd["category_id"] == d["category_id"]
            return same and width * height / (w * h) >= 0.5

        if partner is not None:
            kinds.append("correct")
        elif any(in_crowd(crowd) for crowd in crowds):
            kinds.append(None)
        elif best(own)[0] >= 0.5:
            kinds.append("double")
        elif best(other)[0] >= 0.5:
            kinds.append("wrong class")
            covered.append(best(other)[1])
        elif best(own)[0] >= 0.1:
            kinds.append("mislocalized")
            covered.append(best(own)[1])
        else:
            kinds.append("wrong class and place" if best(other)[0] >= 0.1 else "background")
    return kinds, sum(a["id"] not in covered for a in free)


@pytest.mark.parametrize("seed", range(12))
def test_kinds_are_those_of_a_loop(seed):
    coco, detections = random_case(seed)
    for image in images_with_boxes(coco, detections):
        errors = errors_in(image)
        found = [None if kind is None else kind.value for kind in errors.kinds]
        expected = naive_kinds(coco, detections, image.image_id)
        assert (found, int(errors.is_missed.sum())) == expected


def test_confusion_by_hand():
    objects = [(1, BOX), (2, FAR), (5, [0, 80, 10, 10])]
    detections = [(1, BOX), (1, FAR), (2, [80, 0, 10, 10]), (1, BOX)]
    confusion = confusion_matrix([errors_of(objects, detections)], [1, 2, 5])
    assert confusion.counts.tolist() == [
        [1, 0, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 1],
        [1, 1, 0, 0],
    ]


@pytest.mark.parametrize("seed", range(6))
def test_confusion_counts_everything_once(seed):
    coco, detections = random_case(seed)
    errors = [errors_in(image) for image in images_with_boxes(coco, detections)]
    counts = confusion_matrix(errors, [1, 2, 5]).counts
    kinds = sum((one.count() for one in errors), errors[0].count() - errors[0].count())
    assert counts.trace() == kinds[ErrorKind.CORRECT]
    assert counts[:, :-1].sum() == kinds.total() - kinds[ErrorKind.MISSED]
    assert counts[:-1].sum() == sum(len(one.image.object_labels) for one in errors)
    wrong = kinds.total() - kinds[ErrorKind.CORRECT] - kinds[ErrorKind.MISSED]
    assert counts[:, :-1].sum() - np.trace(counts) == wrong
