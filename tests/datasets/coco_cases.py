"""Made-up ground truth and detections, and pycocotools' own answer to them."""

import contextlib
import copy
import io
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

WIDTH, HEIGHT = 300, 200
CATEGORY_IDS = (1, 3, 4)


def coco_of(annotations, num_images=1, category_ids=CATEGORY_IDS) -> COCO:
    """A COCO object with images 1, 2, … of one size."""
    coco = COCO()
    coco.dataset = {
        "images": [
            {"id": i + 1, "file_name": f"{i + 1}.png", "width": WIDTH, "height": HEIGHT}
            for i in range(num_images)
        ],
        "categories": [{"id": c, "name": f"class{c}"} for c in category_ids],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def annotation(annotation_id, box_xywh, image_id=1, category_id=1, **fields) -> dict[str, Any]:
    x, y, width, height = box_xywh
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(box_xywh),
        "area": float(width * height),
        "iscrowd": 0,
        "segmentation": [
            [x, y, x + width, y, x + width, y + height, x, y + height, x, y + height / 2]
        ],
        **fields,
    }


def prediction(boxes_xywh, labels=None, scores=None) -> dict[str, torch.Tensor]:
    """What a model's post-processor gives for an image; without scores they fall from 0.9."""
    boxes = torch.tensor(boxes_xywh, dtype=torch.float32).reshape(-1, 4)
    count = len(boxes)
    return {
        "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
        "labels": torch.tensor([1] * count if labels is None else labels, dtype=torch.int64),
        "scores": torch.linspace(0.9, 0.1, count) if scores is None else torch.tensor(scores),
    }


def random_case(seed, num_images=5, *, ties=False, whole_pixels=False, num_false=12):
    """Crowds, tiny and empty boxes, unknown classes, images without objects or detections.

    Returns:
        The ground truth, and the predictions by image id.
    """
    rng = np.random.default_rng(seed)
    annotations = []
    predictions = {}
    for image_id in range(1, num_images + 1):
        count = int(rng.integers(0, 7))
        boxes = np.concatenate(
            [rng.uniform(-10, 200, (count, 2)), np.exp(rng.uniform(0, 5.2, (count, 2)))], axis=1
        )
        boxes[rng.random((count, 4)) < 0.03] = 0
        copies = boxes[rng.integers(0, count, 2 * count)] if count else boxes
        copies = copies * (1 + rng.normal(0, 0.1, copies.shape))
        anywhere = np.concatenate(
            [rng.uniform(0, 200, (num_false, 2)), np.exp(rng.uniform(0, 5, (num_false, 2)))], axis=1
        )
        found = np.concatenate([copies, anywhere]) if rng.random() < 0.85 else boxes[:0]
        if whole_pixels:
            boxes, found = boxes.round(), found.round()
        for box in boxes.tolist():
            extra = {
                "iscrowd": int(rng.random() < 0.2),
                "area": box[2] * box[3] * rng.choice([1, 0.5]),
            }
            category_id = int(rng.choice(CATEGORY_IDS))
            annotations.append(
                annotation(len(annotations) + 1, box, image_id, category_id, **extra)
            )
        scores = rng.choice([0.1, 0.5, 0.9], len(found)) if ties else rng.random(len(found))
        labels = rng.integers(0, 6, len(found)).tolist()
        predictions[image_id] = prediction(
            found.tolist(), labels, scores.astype(np.float32).tolist()
        )
    return coco_of(annotations, num_images), predictions


def with_masks(predictions):
    """Adds to each prediction masks [N, 1, H, W] that fill its boxes."""
    y = torch.arange(HEIGHT)[:, None]
    x = torch.arange(WIDTH)[None]
    for fields in predictions.values():
        x0, y0, x1, y1 = (side[:, None, None] for side in fields["boxes"].unbind(1))
        fields["masks"] = ((x >= x0) & (x < x1) & (y >= y0) & (y < y1))[:, None]
    return predictions


def stock_score(coco_gt, entries, iou_type="bbox", image_ids=None, configure=None):
    """pycocotools over everything at once: the evaluation, and the lines that it prints."""
    coco_gt = copy.deepcopy(coco_gt)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if entries:
            found = coco_gt.loadRes(copy.deepcopy(entries))
        else:
            found = COCO()
            found.dataset = {**coco_gt.dataset, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(coco_gt, found, iou_type)
        evaluation.params.imgIds = sorted(image_ids or coco_gt.imgs)
        if configure:
            configure(evaluation.params)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation, printed.getvalue().splitlines()


def run_evaluator(evaluator, *parts):
    """All steps of an evaluation; returns the evaluator."""
    for part in parts:
        evaluator.update(part)
    evaluator.synchronize_between_processes()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator
