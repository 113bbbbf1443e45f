"""The 12 COCO metrics of random detections.

The original calls pycocotools for every batch of two images; the per-image results are
concatenated, accumulated and summarized.
"""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.coco import Predictions, make_data
from benchmarks.harness.measures import TIME_OF_LONG_CALLS
from datasets.coco_eval import CocoEvaluator, create_common_coco_eval, evaluate

TITLE = "COCO metrics"
_BATCH_SIZE = 2


def cases(settings: Settings) -> Iterator[Case]:
    """Half as many images as COCO's validation set has, with 100 detections each."""
    yield case(*((4, 10) if settings.quick else (2500, 100)))


def case(num_images: int, num_detections: int, rounds: int = 1) -> Case:
    """Metrics of ``num_images`` images with ``num_detections`` detections each."""
    coco_gt, predictions = make_data(num_images, num_detections, seed=0)
    return Case(
        f"{num_images} images, {num_detections} detections each",
        {
            "original": lambda: _score_by_batch(coco_gt, predictions),
            "this project": lambda: _score_at_once(coco_gt, predictions),
        },
        rounds,
        tolerance=1e-9,
        measure=TIME_OF_LONG_CALLS,
        threads=1,
    )


def _score_at_once(coco_gt: COCO, predictions: Predictions) -> np.ndarray:
    """Compute the 12 COCO metrics with `CocoEvaluator`."""
    evaluator = CocoEvaluator(coco_gt, ["bbox"])
    with contextlib.redirect_stdout(io.StringIO()):
        for batch in _batches(predictions):
            evaluator.update(batch)
        evaluator.synchronize_between_processes()
        evaluator.accumulate()
        evaluator.summarize()
    stats: np.ndarray = evaluator.coco_eval["bbox"].stats
    return stats


def _score_by_batch(coco_gt: COCO, predictions: Predictions) -> np.ndarray:
    """Compute the 12 COCO metrics with pycocotools, batch by batch."""
    prepare = CocoEvaluator(coco_gt, ["bbox"]).prepare
    evaluation = COCOeval(coco_gt, iouType="bbox")
    image_ids: list[int] = []
    results = []
    with contextlib.redirect_stdout(io.StringIO()):
        for batch in _batches(predictions):
            evaluation.cocoDt = coco_gt.loadRes(prepare(batch, "bbox"))
            evaluation.params.imgIds = list(batch)
            batch_ids, batch_results = evaluate(evaluation)
            image_ids.extend(batch_ids)
            results.append(batch_results)
        create_common_coco_eval(evaluation, image_ids, np.concatenate(results, axis=2))
        evaluation.accumulate()
        evaluation.summarize()
    stats: np.ndarray = evaluation.stats
    return stats


def _batches(predictions: Predictions) -> list[Predictions]:
    """Split the predictions into the batches of a data loader."""
    items = list(predictions.items())
    return [dict(items[i : i + _BATCH_SIZE]) for i in range(0, len(items), _BATCH_SIZE)]
