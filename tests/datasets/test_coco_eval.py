import contextlib
import copy
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.cocoeval import COCOeval

from datasets.coco_eval import (
    CocoEvaluator,
    convert_to_xywh,
    create_common_coco_eval,
    evaluate,
    merge,
)
from datasets.evaluation.image_detections import no_detections
from tests.datasets.coco_cases import (
    HEIGHT,
    WIDTH,
    annotation,
    coco_of,
    prediction,
    random_case,
    run_evaluator,
    with_masks,
)
from util.distributed import gathering
from util.errors import UserError

BOX = (10, 10, 50, 50)


def stats_of(coco, *parts, iou_type="bbox"):
    return run_evaluator(CocoEvaluator(coco, [iou_type]), *parts).coco_eval[iou_type].stats.tolist()


@pytest.fixture
def case():
    return random_case(3, num_images=6)


def test_batches_and_their_order_do_not_matter(case):
    coco, predictions = case
    at_once = stats_of(coco, predictions)
    one_by_one = [{i: predictions[i]} for i in reversed(predictions)]
    assert stats_of(coco, *one_by_one) == at_once
    assert at_once[0] > 0


def test_only_evaluated_images_count(case):
    coco, predictions = case
    evaluator = CocoEvaluator(coco, ["bbox"])
    run_evaluator(evaluator, {5: predictions[5]}, {2: predictions[2]})
    assert evaluator.coco_eval["bbox"].params.imgIds == [2, 5] == evaluator.img_ids
    assert evaluator.coco_eval["bbox"].stats.tolist() != stats_of(coco, predictions)


def test_an_image_named_twice_counts_once_the_first_time():
    coco = coco_of([annotation(1, BOX)])
    good, bad = {1: prediction([BOX])}, {1: prediction([[200, 100, 20, 20]])}
    assert stats_of(coco, good, bad)[0] == pytest.approx(1)
    assert stats_of(coco, bad, good)[0] == 0


def test_processes_share_their_images_the_first_one_wins(case, monkeypatch):
    coco, predictions = case
    ranks = []
    for image_ids in ([4, 1, 3], [2, 5, 6, 4]):  # image 4 pads the sampler of the second
        rank = CocoEvaluator(coco, ["bbox"])
        rank.update({i: predictions[i] for i in image_ids})
        ranks.append(rank)
    ranks[1]._collected[4] = no_detections()
    everything = [pair for rank in ranks for pair in rank._collected.items()]
    monkeypatch.setattr(gathering, "gather_to_main", lambda own: everything)
    main = run_evaluator(ranks[0])
    assert main.coco_eval["bbox"].stats.tolist() == stats_of_single(coco, predictions)
    assert main.img_ids == [1, 2, 3, 4, 5, 6]


def stats_of_single(coco, predictions):
    """Without the collective, which the test above has replaced."""
    evaluator = CocoEvaluator(coco, ["bbox"])
    evaluator.update(predictions)
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator.coco_eval["bbox"].stats.tolist()


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_the_callers_ground_truth_does_not_change(case, iou_type):
    coco, predictions = case
    before = copy.deepcopy(coco.dataset)
    evaluator = run_evaluator(CocoEvaluator(coco, [iou_type]), with_masks(predictions))
    assert coco.dataset == before
    assert evaluator.coco_gt is not coco


def test_an_image_without_detections_counts_as_missed():
    coco = coco_of([annotation(1, BOX), annotation(2, BOX, image_id=2)], num_images=2)
    nothing = prediction([])
    for empty in (nothing, {}):
        stats = stats_of(coco, {1: prediction([BOX]), 2: empty})
        assert stats[8] == pytest.approx(0.5)


def test_annotation_ids_may_start_from_0():
    """pycocotools itself takes the object with id 0 for one that nothing matches."""
    found = {1: prediction([BOX, [150, 100, 40, 40]])}
    annotations = [annotation(0, BOX), annotation(1, (150, 100, 40, 40))]
    assert stats_of(coco_of(annotations), found)[0] == pytest.approx(1)


def test_area_and_iscrowd_may_be_missing():
    bare = annotation(1, BOX)
    del bare["area"], bare["iscrowd"]
    assert stats_of(coco_of([bare]), {1: prediction([BOX])}) == stats_of(
        coco_of([annotation(1, BOX)]), {1: prediction([BOX])}
    )


def test_objects_with_a_negative_area_count():
    """pycocotools ignores them: their area is in no size range."""
    coco = coco_of([annotation(1, BOX), {**annotation(2, (150, 100, 40, 40)), "area": -1600}])
    stats = stats_of(coco, {1: prediction([BOX])})
    assert stats[8] == pytest.approx(0.5)


def test_masks_and_boxes_are_scored_side_by_side(case):
    coco, predictions = case
    both = run_evaluator(CocoEvaluator(coco, ("bbox", "segm")), with_masks(predictions))
    assert list(both.coco_eval) == ["bbox", "segm"]
    for iou_type, score in both.coco_eval.items():
        assert score.stats.tolist() == stats_of(coco, predictions, iou_type=iou_type)


class TestEntries:
    def test_boxes_become_xywh_and_numbers_are_exact(self):
        coco = coco_of([], num_images=4)
        predictions = {
            2: prediction([[0.1, 0.7, 33.3, 21.9], BOX], [3, 7], [0.1, 1 / 3]),
            4: prediction([BOX]),
        }
        evaluator = CocoEvaluator(coco, ["bbox"])
        for image_id in (4, 2):
            evaluator.update({image_id: predictions[image_id]})
        entries = json.loads(json.dumps(evaluator.detections()))
        assert [e["image_id"] for e in entries] == sorted(e["image_id"] for e in entries)
        of_first = [e for e in entries if e["image_id"] == 2]
        wanted = predictions[2]
        assert [e["score"] for e in of_first] == wanted["scores"].tolist()
        assert [e["category_id"] for e in of_first] == wanted["labels"].tolist()
        boxes = torch.tensor([e["bbox"] for e in of_first])
        assert torch.equal(boxes, convert_to_xywh(wanted["boxes"]))
        assert entries == evaluator.prepare({i: predictions[i] for i in (2, 4)}, "bbox")


class TestMistakes:
    def test_an_image_that_the_ground_truth_lacks(self):
        with pytest.raises(UserError, match=r"image id 9, .* 1 images"):
            CocoEvaluator(coco_of([]), ["bbox"]).update({9: prediction([BOX])})

    @pytest.mark.parametrize("field", ["scores", "boxes"])
    def test_numbers_that_are_not_finite(self, field):
        fields = prediction([BOX, BOX])
        fields[field][1] = float("nan")
        with pytest.raises(UserError, match=rf"image 1: {field}.*diverged"):
            CocoEvaluator(coco_of([]), ["bbox"]).update({1: fields})

    def test_masks_of_another_size_than_the_image(self):
        fields = {**prediction([BOX]), "masks": torch.zeros(1, 1, 7, 5)}
        with pytest.raises(UserError, match=f"image 1 are 7 x 5 .* says {HEIGHT} x {WIDTH}"):
            CocoEvaluator(coco_of([]), ["segm"]).update({1: fields})

    def test_ground_truth_without_segmentation(self):
        coco = coco_of([annotation(12, BOX, segmentation=[])])
        evaluator = CocoEvaluator(coco, ["segm"])
        evaluator.update(with_masks({1: prediction([BOX])}))
        with pytest.raises(UserError, match=r"annotation 12 of image 1: segmentation \[\] is "):
            evaluator.accumulate()

    def test_an_unknown_iou_type(self):
        with pytest.raises(ValueError, match=r"'box'.*bbox, segm, keypoints"):
            CocoEvaluator(coco_of([]), ["box"])
        with pytest.raises(ValueError, match="'box'"):
            CocoEvaluator(coco_of([]), ["bbox"]).prepare({}, "box")


class TestBatchByBatch:
    """The original's way, on pycocotools objects."""

    def score(self, coco, batches, **settings):
        coco = copy.deepcopy(coco)
        prepare = CocoEvaluator(coco, ["bbox"]).prepare
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(coco, iouType="bbox")
            vars(evaluation.params).update(settings)
            ids, results = [], []
            for batch in batches:
                evaluation.cocoDt = coco.loadRes(prepare(batch, "bbox"))
                evaluation.params.imgIds = list(batch)
                batch_ids, batch_results = evaluate(evaluation)
                ids.extend(batch_ids)
                results.append(batch_results)
            create_common_coco_eval(evaluation, ids, np.concatenate(results, axis=2))
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation.stats.tolist()

    def test_gives_the_same_numbers(self):
        coco, predictions = random_case(13, num_images=5)
        # pycocotools cannot load a batch without detections
        found = [(i, fields) for i, fields in predictions.items() if len(fields["boxes"])]
        pairs = [dict(found[i : i + 2]) for i in (2, 0, 1)]
        predictions = dict(found)
        assert len(found) == 4
        assert self.score(coco, pairs) == pytest.approx(stats_of(coco, predictions), abs=1e-12)

    def test_without_categories(self):
        coco, predictions = random_case(12, num_images=1)
        evaluator = CocoEvaluator(coco, ["bbox"])
        evaluator.coco_eval["bbox"].params.useCats = 0
        run_evaluator(evaluator, predictions)
        expected = evaluator.coco_eval["bbox"].stats.tolist()
        assert self.score(coco, [predictions], useCats=0) == pytest.approx(expected, abs=1e-12)

    def test_prints_nothing(self, capsys):
        evaluation = COCOeval(coco_of([]), coco_of([]), "bbox")
        image_ids, results = evaluate(evaluation)
        assert image_ids == [1] and results.shape == (3, 4, 1)
        assert capsys.readouterr().out == ""

    def test_merging_keeps_the_first_result_of_an_image(self):
        results = np.array([[["a", "b", "c"]]], dtype=object)
        ids, merged = merge([7, 2, 7], results)
        assert ids.tolist() == [2, 7] and merged.tolist() == [[["b", "a"]]]
