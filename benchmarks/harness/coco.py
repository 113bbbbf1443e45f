"""Random COCO ground truth with COCO's statistics, and detections of it."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch import Tensor

Predictions = dict[int, dict[str, Tensor]]

NUM_CATEGORIES = 80
OBJECTS_PER_IMAGE = 7
CATEGORIES_PER_IMAGE = 3
IMAGE_SIZE_WH = np.array([640.0, 480.0])
SIDES_IN_PIXELS = (8.0, 300.0)
CROWD_SHARE = 0.01


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


def write_annotations(folder: Path, num_images: int) -> Path:
    """Write an annotation file with polygons, and empty image files.

    Args:
        folder: existing folder, gets ``images/`` and the file.
        num_images: number of images of 640 x 480 pixels, with about seven objects each.

    Returns:
        path of the annotation file.
    """
    dataset = make_data(num_images, 0, seed=0)[0].dataset
    (folder / "images").mkdir()
    for image in dataset["images"]:
        image["file_name"] = f"{image['id']}.jpg"
        (folder / "images" / image["file_name"]).touch()
    for annotation in dataset["annotations"]:
        annotation["iscrowd"] = 0
        x, y, width, height = annotation["bbox"]
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        xs, ys = x + width / 2 * (1 + np.cos(angles)), y + height / 2 * (1 + np.sin(angles))
        annotation["segmentation"] = [np.stack([xs, ys], axis=1).ravel().round(2).tolist()]
    path = folder / "instances.json"
    path.write_text(json.dumps(dataset))
    return path


def write_photos(folder: Path, num_images: int) -> Path:
    """Write annotations as `write_annotations`, and JPEG files with the noise of a photo."""
    path = write_annotations(folder, num_images)
    rng = np.random.default_rng(0)
    width, height = map(int, IMAGE_SIZE_WH)
    for file in (folder / "images").iterdir():
        coarse = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(smooth) + rng.normal(0, 8, (height, width, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=90)
    return path
