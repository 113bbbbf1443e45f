"""Time of COCO evaluation, compared with pycocotools called batch by batch.

    python -m benchmarks.evaluation --images 5000 --detections 100

Both get the same random detections. The baseline works like the original: pycocotools scores every
batch of two images separately; the per-image results are concatenated, accumulated and summarized.
"""

import argparse
import contextlib
import importlib.metadata
import io
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from datasets.coco_eval import CocoEvaluator, create_common_coco_eval, evaluate

Predictions = dict[int, dict[str, Tensor]]

NUM_CATEGORIES = 80
OBJECTS_PER_IMAGE = 7
CATEGORIES_PER_IMAGE = 3
IMAGE_SIZE_WH = np.array([640.0, 480.0])
SIDES_IN_PIXELS = (8.0, 300.0)
CROWD_SHARE = 0.01
BATCH_SIZE = 2


def main() -> None:
    """Run the benchmark and print times, their ratio and the largest difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="detections per image")
    parser.add_argument("--engine", default="auto", help="auto, faster or pycocotools")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    coco_gt, predictions = make_data(args.images, args.detections, args.seed)
    print(f"{args.images} images, {len(coco_gt.anns)} objects, {NUM_CATEGORIES} classes, ", end="")
    print(f"{args.detections} detections per image; {describe_machine()}")
    ours, our_seconds = timed(lambda: score_at_once(coco_gt, predictions, args.engine))
    print(f"ours, engine {args.engine}: {our_seconds:.1f} s")
    stock, stock_seconds = timed(lambda: score_by_batch(coco_gt, predictions))
    print(f"pycocotools, batches of {BATCH_SIZE}: {stock_seconds:.1f} s")
    print(f"ratio {stock_seconds / our_seconds:.1f}, ", end="")
    print(
        f"largest difference of the 12 numbers {np.abs(ours - stock).max():.1e}, AP {ours[0]:.4f}"
    )


def score_at_once(coco_gt: COCO, predictions: Predictions, engine: str) -> np.ndarray:
    """Compute the 12 COCO metrics with `CocoEvaluator`."""
    evaluator = CocoEvaluator(coco_gt, ["bbox"], engine)
    for batch in batches(predictions):
        evaluator.update(batch)
    evaluator.synchronize_between_processes()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator.coco_eval["bbox"].stats


def score_by_batch(coco_gt: COCO, predictions: Predictions) -> np.ndarray:
    """Compute the 12 COCO metrics with pycocotools, batch by batch."""
    prepare = CocoEvaluator(coco_gt, ["bbox"]).prepare
    evaluation = COCOeval(coco_gt, iouType="bbox")
    image_ids: list[int] = []
    results = []
    for batch in batches(predictions):
        evaluation.cocoDt = coco_gt.loadRes(prepare(batch, "bbox"))
        evaluation.params.imgIds = list(batch)
        batch_ids, batch_results = evaluate(evaluation)
        image_ids.extend(batch_ids)
        results.append(batch_results)
    create_common_coco_eval(evaluation, image_ids, np.concatenate(results, axis=2))
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats


def batches(predictions: Predictions) -> list[Predictions]:
    """Split the predictions into the batches of a data loader."""
    items = list(predictions.items())
    return [dict(items[i : i + BATCH_SIZE]) for i in range(0, len(items), BATCH_SIZE)]


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """Run ``work`` without its printed output; returns its result and seconds."""
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        result = work()
    return result, time.perf_counter() - start


def describe_machine() -> str:
    """Processor and package versions."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("faster-coco-eval", "pycocotools", "numpy")
    )
    processor = platform.processor() or platform.machine()
    return f"{processor}, Python {platform.python_version()}, {versions}"


def make_data(num_images: int, num_detections: int, seed: int) -> tuple[COCO, Predictions]:
    """Ground truth with COCO-like statistics, and detections: noisy copies and false positives."""
    rng = np.random.default_rng(seed)
    dataset: dict[str, Any] = {
        "images": [{"id": i, "width": 640, "height": 480} for i in range(1, num_images + 1)],
        "categories": [{"id": c, "name": f"class {c}"} for c in range(1, NUM_CATEGORIES + 1)],
        "annotations": [],
    }
    predictions: Predictions = {}
    for image in dataset["images"]:
        labels, boxes_xywh = random_objects(rng)
        dataset["annotations"] += annotate(
            rng, image["id"], labels, boxes_xywh, len(dataset["annotations"])
        )
        predictions[image["id"]] = detect(rng, labels, boxes_xywh, num_detections)
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco, predictions


def random_objects(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N] of a few classes, and boxes xywh [N, 4] in pixels, for an image."""
    count = rng.poisson(OBJECTS_PER_IMAGE)
    present = random_labels(rng, CATEGORIES_PER_IMAGE)
    return rng.choice(present, count), random_boxes_xywh(rng, count)


def random_labels(rng: np.random.Generator, count: int) -> np.ndarray:
    """Labels [count]; the probability of class c is proportional to 1 / c."""
    weights = 1 / np.arange(1, NUM_CATEGORIES + 1)
    return rng.choice(NUM_CATEGORIES, count, p=weights / weights.sum()) + 1


def random_boxes_xywh(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes xywh [count, 4] inside the image, with log-uniform sides."""
    shortest, longest = SIDES_IN_PIXELS
    sides = shortest * (longest / shortest) ** rng.uniform(0, 1, (count, 2))
    corners = rng.uniform(0, 1, (count, 2)) * (IMAGE_SIZE_WH - sides)
    return np.concatenate([corners, sides], axis=1)


def annotate(
    rng: np.random.Generator, image_id: int, labels: np.ndarray, boxes_xywh: np.ndarray, taken: int
) -> list[dict[str, Any]]:
    """COCO annotations of an image; ``taken`` is the number of annotation ids already in use."""
    return [
        {
            "id": taken + k + 1,
            "image_id": image_id,
            "category_id": int(label),
            "bbox": box.tolist(),
            "area": float(box[2] * box[3] * 0.7),
            "iscrowd": int(rng.random() < CROWD_SHARE),
        }
        for k, (label, box) in enumerate(zip(labels, boxes_xywh, strict=True))
    ]


def detect(
    rng: np.random.Generator, labels: np.ndarray, boxes_xywh: np.ndarray, count: int
) -> dict[str, Tensor]:
    """``count`` detections: each object up to twice with noise, the rest at random positions."""
    found = rng.permutation(np.repeat(np.arange(len(labels)), 2))[:count]
    noise = rng.normal(0, 0.06, (len(found), 4)) * np.tile(boxes_xywh[found][:, 2:], 2)
    missing = count - len(found)
    boxes = np.concatenate([boxes_xywh[found] + noise, random_boxes_xywh(rng, missing)])
    boxes[:, 2:] = boxes[:, :2] + np.maximum(boxes[:, 2:], 1)
    scores = np.concatenate([rng.beta(4, 2, len(found)), rng.beta(1, 6, missing)])
    all_labels = np.concatenate([labels[found], random_labels(rng, missing)])
    return {
        "boxes": torch.from_numpy(boxes).float(),
        "scores": torch.from_numpy(scores).float(),
        "labels": torch.from_numpy(all_labels),
    }


if __name__ == "__main__":
    main()
