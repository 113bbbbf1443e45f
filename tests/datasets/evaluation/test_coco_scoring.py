import copy
import importlib.util
import sys

import numpy as np
import pytest

from datasets.coco_eval import CocoEvaluator
from datasets.evaluation.coco_scoring import CocoScore, SummaryRow, choose_backend
from tests.datasets.coco_cases import (
    annotation,
    coco_of,
    prediction,
    random_case,
    run_evaluator,
    stock_score,
    with_masks,
)
from util.errors import UserError

HAVE_FASTER = importlib.util.find_spec("faster_coco_eval") is not None
BACKENDS = [
    pytest.param("faster", marks=pytest.mark.skipif(not HAVE_FASTER, reason="not installed")),
    "pycocotools",
]

CASES = {
    "any": {},
    "ties": {"ties": True},
    "whole pixels": {"whole_pixels": True, "ties": True},
    "one image": {"num_images": 1},
    "more than 100 detections": {"num_images": 2, "num_false": 700},
    "no false alarms": {"num_false": 0},
}


def assert_same_as_stock(evaluator, stock, iou_type="bbox", stats=True):
    score = evaluator.coco_eval[iou_type]
    for name in ("precision", "recall", "scores"):
        np.testing.assert_allclose(score.eval[name], stock.eval[name], rtol=0, atol=1e-12)
    if stats:
        np.testing.assert_allclose(score.stats, stock.stats, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_stock_pycocotools_on_boxes(backend, case, seed):
    coco, predictions = random_case(seed, **CASES[case])
    evaluator = run_evaluator(CocoEvaluator(coco, ["bbox"], backend), predictions)
    assert_same_as_stock(evaluator, stock_score(coco, evaluator.detections())[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(2))
def test_agrees_with_stock_pycocotools_on_masks(backend, seed):
    coco, predictions = random_case(seed)
    evaluator = run_evaluator(CocoEvaluator(coco, ["segm"], backend), with_masks(predictions))
    stock, _ = stock_score(coco, evaluator.detections("segm"), "segm")
    assert_same_as_stock(evaluator, stock, "segm")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "settings",
    [
        {"useCats": 0},
        {"maxDets": [20, 2, 500]},
        {"iouThrs": np.array([0.3, 0.5]), "catIds": [3, 1]},
        {"areaRng": [[0, 1e10], [0, 500]], "areaRngLbl": ["all", "small"]},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_are_followed(backend, settings):
    def configure(params):
        vars(params).update(copy.deepcopy(settings))

    coco, predictions = random_case(7, num_false=40)
    evaluator = CocoEvaluator(coco, ["bbox"], backend)
    configure(evaluator.coco_eval["bbox"].params)
    run_evaluator(evaluator, predictions)
    stock, _ = stock_score(coco, evaluator.detections(), configure=configure)
    # pycocotools summarizes at 100 detections only and says -1 where that is no setting
    assert_same_as_stock(evaluator, stock, stats="maxDets" not in settings)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_summary_follows_the_largest_number_of_detections(backend, capsys):
    coco = coco_of([annotation(1, (10, 10, 50, 50))])
    evaluator = CocoEvaluator(coco, ["bbox"], backend)
    evaluator.coco_eval["bbox"].params.maxDets = [1, 2]
    run_evaluator(evaluator, {1: prediction([[10, 10, 50, 50]])})
    assert evaluator.coco_eval["bbox"].stats[[0, 6, 7, 8]].tolist() == pytest.approx([1] * 4)
    assert "area=   all | maxDets=  2 ] = 1.000" in capsys.readouterr().out


@pytest.mark.parametrize("backend", BACKENDS)
def test_numbers_worked_out_by_hand(backend):
    """Two objects, one found exactly with the best score: precision 1 up to recall 0.5."""
    coco = coco_of([annotation(1, (10, 10, 50, 50)), annotation(2, (150, 100, 40, 40))])
    found = prediction([[10, 10, 50, 50], [100, 0, 10, 10]])
    score = run_evaluator(CocoEvaluator(coco, ["bbox"], backend), {1: found}).coco_eval["bbox"]
    ap, recall = 51 / 101, 0.5
    expected = [ap, ap, ap, -1, ap, -1, recall, recall, recall, -1, recall, -1]
    assert score.stats.tolist() == pytest.approx(expected)
    assert score.objects_per_category == {1: 2}
    assert score.class_mean(SummaryRow("AP", 0.5, "all", -1), 0) == pytest.approx(ap)
    assert score.class_mean(SummaryRow("AP", 0.5, "all", -1), 1) == -1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("annotations", "found", "expected"),
    [
        ([], [], -1),
        ([], [[10, 10, 50, 50]], -1),
        ([annotation(1, (10, 10, 50, 50), iscrowd=1)], [[10, 10, 50, 50]], -1),
        ([annotation(1, (10, 10, 50, 50))], [], 0),
        ([annotation(1, (10, 10, 0, 0))], [[10, 10, 0, 0]], 0),
        ([annotation(1, (10, 10, 1, 1))], [[10, 10, 1, 1]], 1),
    ],
    ids=["nothing", "only detections", "only a crowd", "no detections", "empty box", "one pixel"],
)
def test_degenerate_sets(backend, annotations, found, expected):
    coco = coco_of(annotations)
    evaluator = run_evaluator(CocoEvaluator(coco, ["bbox"], backend), {1: prediction(found)})
    assert evaluator.coco_eval["bbox"].stats[0] == pytest.approx(expected)
    assert_same_as_stock(evaluator, stock_score(coco, evaluator.detections())[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("category_ids", [(), (1, 3)])
def test_without_images_or_categories_every_number_is_minus_one(backend, category_ids):
    evaluator = CocoEvaluator(coco_of([], category_ids=category_ids), ["bbox"], backend)
    run_evaluator(evaluator, *[{1: prediction([[1, 2, 3, 4]])}] * (not category_ids))
    score = evaluator.coco_eval["bbox"]
    assert score.stats.tolist() == [-1] * 12
    assert score.eval["counts"] == [10, 101, len(category_ids), 4, 3]


def test_keypoints_are_scored_as_by_pycocotools():
    keypoints = np.random.default_rng(0).uniform(10, 90, (17, 3))
    keypoints[:, 2] = 2
    fields = {"keypoints": keypoints.flatten().tolist(), "num_keypoints": 17}
    coco = coco_of([annotation(1, (10, 10, 80, 80), **fields)])
    evaluator = CocoEvaluator(coco, ["keypoints"])
    found = prediction([[10, 10, 80, 80]])
    found["keypoints"] = found["boxes"].new_tensor(keypoints + np.array([2, 2, 0]))[None]
    run_evaluator(evaluator, {1: found})
    stock, _ = stock_score(coco, evaluator.detections("keypoints"), "keypoints")
    assert_same_as_stock(evaluator, stock, "keypoints")
    assert 0 < evaluator.coco_eval["keypoints"].stats[0] < 1


def test_the_summary_is_printed_as_pycocotools_prints_it(capsys):
    coco, predictions = random_case(1)
    evaluator = run_evaluator(CocoEvaluator(coco, ["bbox"]), predictions)
    ours = capsys.readouterr().out.splitlines()
    assert ours[0] == "Accumulating evaluation results..."
    assert ours[1].startswith("DONE (t=") and ours[2] == "IoU metric: bbox"
    assert ours[3:] == stock_score(coco, evaluator.detections())[1][-12:]


def test_a_summary_needs_an_evaluation():
    with pytest.raises(RuntimeError, match=r"accumulate\(\)"):
        CocoScore("bbox", [1], [1]).summarize()


def test_results_hold_plain_numbers():
    coco, predictions = random_case(2)
    score = run_evaluator(CocoEvaluator(coco, ["bbox"]), predictions).coco_eval["bbox"]
    assert {"params", "counts", "date", "precision", "recall", "scores"} == score.eval.keys()
    assert {type(i) for i in score.params.catIds + score.params.imgIds} == {int}
    assert score.eval["precision"].dtype == np.float64


class TestChoiceOfTheBackend:
    def test_without_the_package_auto_falls_back(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
        assert choose_backend("auto", "bbox") is choose_backend("pycocotools", "bbox")

    def test_without_the_package_its_name_is_an_error(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
        with pytest.raises(UserError, match="pip install faster-coco-eval"):
            CocoEvaluator(coco_of([]), ["bbox"], backend="faster")

    def test_an_unknown_name_is_an_error(self):
        with pytest.raises(ValueError, match=r"'fast'.*auto, faster, pycocotools"):
            CocoEvaluator(coco_of([]), ["bbox"], backend="fast")

    @pytest.mark.skipif(not HAVE_FASTER, reason="not installed")
    def test_auto_takes_the_fast_one(self):
        assert choose_backend("auto", "segm") is choose_backend("faster", "segm")
        assert choose_backend("auto", "segm") is not choose_backend("pycocotools", "segm")
