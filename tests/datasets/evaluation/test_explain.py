import pytest
import torch

from datasets.coco_eval import CocoEvaluator
from datasets.evaluation.explain import explain_limit, explain_missing_ap
from tests.datasets.coco_cases import (
    annotation,
    coco_of,
    prediction,
    run_evaluator,
    with_masks,
)

# One box of each of COCO's size ranges.
SMALL, MEDIUM, LARGE = (10, 10, 20, 20), (100, 100, 60, 60), (150, 20, 120, 120)
BOXES = [SMALL, MEDIUM, LARGE]
OBJECTS = [annotation(i + 1, box) for i, box in enumerate(BOXES)]


def explain(annotations, found, iou_type="bbox", num_images=1):
    evaluator = CocoEvaluator(coco_of(annotations, num_images), [iou_type])
    return explain_missing_ap(run_evaluator(evaluator, *found), iou_type)


def the_reason(*arguments, **options):
    (reason,) = explain(*arguments, **options)
    assert "\n" not in reason
    return reason


def corners(boxes):
    """A prediction whose boxes are handed over as they are, whatever the format."""
    return {**prediction([[0, 0, 1, 1]] * len(boxes)), "boxes": torch.tensor(boxes)}


def test_nothing_to_explain_when_every_number_is_above_zero():
    assert explain(OBJECTS, [{1: prediction(BOXES)}]) == []


class TestMinusOne:
    def test_no_image(self):
        assert "no image was evaluated" in the_reason(OBJECTS, [])

    def test_no_annotated_image(self):
        reason = the_reason(OBJECTS, [{2: prediction(BOXES), 3: {}}], num_images=3)
        assert reason.startswith("AP and AR are -1: none of the 2 images evaluated has an annot")

    def test_crowds_only(self):
        crowd = [annotation(1, MEDIUM, iscrowd=1)]
        assert "only crowd regions (iscrowd 1)" in the_reason(crowd, [{1: prediction(BOXES)}])

    def test_categories_that_the_file_does_not_list(self):
        strangers = [annotation(1, MEDIUM, category_id=77)]
        reason = the_reason(strangers, [{1: prediction(BOXES)}])
        assert "category ids 77," in reason and "evaluated categories are 1, 3, 4" in reason

    def test_a_size_range_without_objects(self):
        reasons = explain(OBJECTS[1:], [{1: prediction(BOXES[1:])}])
        assert reasons == [
            "AP and AR for small objects are -1: no ground-truth object has an area of "
            "0² to 32² pixels"
        ]


class TestZero:
    def test_no_detections(self):
        assert "no detections" in the_reason(OBJECTS, [{1: prediction([])}])

    def test_detections_of_other_images_only(self):
        found = [{1: {}, 2: prediction(BOXES)}]
        assert "no detection is for an image with" in the_reason(OBJECTS, found, num_images=2)

    @pytest.mark.parametrize(("label", "hint"), [(0, "adding 1"), (2, "adding -1")])
    def test_labels_shifted_by_one(self, label, hint):
        reason = the_reason(OBJECTS, [{1: prediction(BOXES, labels=[label] * 3)}])
        assert f"({label}) and the ground truth's category ids (1) have no id in common" in reason
        assert hint in reason

    def test_labels_with_nothing_in_common(self):
        reason = the_reason(OBJECTS, [{1: prediction(BOXES, labels=[80, 81, 82])}])
        assert "(80, 81, 82)" in reason and "trained with different classes" in reason

    def test_boxes_handed_over_as_xywh(self):
        boxes = [[200.0, 150.0, 20.0, 20.0], [100.0, 100.0, 60.0, 60.0]]
        assert "negative width or height" in the_reason(OBJECTS, [{1: corners(boxes)}])

    def test_boxes_normalized_to_the_image(self):
        boxes = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.9, 0.98]]
        reason = the_reason(OBJECTS, [{1: corners(boxes)}])
        assert "exceeds 0.98, so they are normalized" in reason

    def test_boxes_in_the_scale_of_another_image_size(self):
        scaled = [[4 * value for value in box] for box in BOXES[1:]]
        reason = the_reason(OBJECTS, [{1: prediction(scaled)}])
        assert reason.startswith("AP is 0: 100% of the detected boxes have their center outside")

    def test_places_right_and_classes_wrong(self):
        objects = [*OBJECTS, annotation(4, (50, 150, 40, 40), category_id=3)]
        reason = the_reason(objects, [{1: prediction(BOXES, labels=[3, 3, 4])}])
        assert "75% of the objects are covered" in reason and "same category ids" in reason

    def test_places_wrong(self):
        elsewhere = [(x + w, y, w, h) for x, y, w, h in BOXES[:2]]
        reason = the_reason(OBJECTS, [{1: prediction(elsewhere)}])
        assert "hardly any detection overlaps" in reason and "IoU: 0.05" in reason

    def test_scores_of_an_untrained_model(self):
        found = prediction([(0, 0, 9, 9)], scores=[0.04])
        _, reason = explain(OBJECTS, [{1: found}])
        assert "the highest score is 0.040: the model is not trained" in reason

    def test_low_scores_are_no_reason_to_doubt_the_classes(self):
        found = prediction([(0, 0, 9, 9)], labels=[80], scores=[0.04])
        reason = the_reason(OBJECTS, [{1: found}])
        assert "not trained" in reason and "other classes" not in reason

    def test_size_ranges_without_objects_are_named_too(self):
        reasons = explain(OBJECTS[1:], [{1: prediction([])}])
        assert len(reasons) == 2 and "small objects are -1" in reasons[1]

    def test_a_size_range_in_which_nothing_is_found(self):
        reason = the_reason(OBJECTS, [{1: prediction(BOXES[1:])}])
        assert reason.startswith("AP for small objects is 0: hardly any ground-truth object with")

    def test_masks(self):
        found = with_masks({1: prediction([(0, 150, 9, 9)])})
        reason = the_reason(OBJECTS, [found], iou_type="segm")
        assert reason.startswith("AP is 0: hardly any detection matches")


class TestZeroDuringTraining:
    """The classes are those of the data: no question whether they are."""

    def explain(self, score):
        found = {1: prediction([(0, 0, 9, 9)], labels=[2], scores=[score])}
        evaluator = run_evaluator(CocoEvaluator(coco_of(OBJECTS), ["bbox"]), found)
        (reason,) = explain_missing_ap(evaluator, training=True)
        return reason

    def test_scores_near_zero(self):
        reason = self.explain(0.04)
        assert reason.endswith(
            "the scores are still near zero (at most 0.040): normal in the first epochs"
        )

    def test_confused_classes(self):
        reason = self.explain(0.6)
        assert "have no id in common; normal in the first epochs" in reason
        assert "shifted" not in reason and "other classes" not in reason

    def test_places_learned_before_classes(self):
        objects = [*OBJECTS, annotation(4, (50, 150, 40, 40), category_id=3)]
        found = {1: prediction(BOXES, labels=[3, 3, 4])}
        evaluator = run_evaluator(CocoEvaluator(coco_of(objects), ["bbox"]), found)
        (reason,) = explain_missing_ap(evaluator, training=True)
        assert "75% of the objects are covered" in reason and "first epochs" in reason


def test_more_objects_of_a_class_than_detections_that_count():
    boxes = [(x, y, 8, 8) for y in range(0, 130, 10) for x in range(0, 100, 10)]  # 130
    objects = [annotation(i, box) for i, box in enumerate(boxes, 1)]
    objects += [annotation(200, MEDIUM, image_id=2), annotation(201, LARGE, iscrowd=1)]
    evaluator = CocoEvaluator(coco_of(objects, 2), ["bbox"])
    run_evaluator(evaluator, {1: prediction(boxes), 2: prediction([MEDIUM])})
    assert evaluator.coco_eval["bbox"].stats[8] < 0.8  # although every object is found
    assert explain_limit(evaluator) == (
        "AP and AR count at most 100 detections per image and class, as COCO does, but 1 image has "
        "more objects of a class, such as 130 of class1 in 1.png: 30 of 131 objects count as "
        "missed, whatever the model detects"
    )
    evaluator.coco_eval["bbox"].params.maxDets = [1, 10, 130]
    assert explain_limit(evaluator) is None
