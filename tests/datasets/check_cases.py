"""A small made-up dataset for the checker; it is valid until a test changes it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets.check.coco import CocoSplit, Settings, check_coco_split
from datasets.check.findings import Finding
from datasets.check.split_statistics import Split

WIDTH, HEIGHT = 64, 48


def write_image(path: Path, seed: int, size_wh=(WIDTH, HEIGHT), **options: Any) -> None:
    """Random pixels, so that no two seeds give the same image."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (size_wh[1], size_wh[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def row(annotation_id: int, image_id: int, box_xywh, category_id=1, **fields: Any):
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(box_xywh),
        **fields,
    }


def write_split(root: Path, name="train", num_images=4, first_seed=0) -> dict[str, Any]:
    """Write images 1, 2, … with two objects each to ``root/name``; the annotations to come."""
    images, annotations = [], []
    for image_id in range(1, num_images + 1):
        file_name = f"{name}{image_id}.png"
        write_image(root / name / file_name, first_seed + image_id)
        images.append({"id": image_id, "file_name": file_name, "width": WIDTH, "height": HEIGHT})
        for k in range(2):
            box = [image_id, 2 * k, 20 + image_id, 10]
            annotations.append(row(10 * image_id + k, image_id, box, category_id=1 + k))
    classes = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": classes}


def split_at(root: Path, name="train") -> Split:
    return Split(name, root / name, root / f"{name}.json")


def check(root: Path, data: dict[str, Any], name="train", **settings: Any) -> CocoSplit:
    """Write the annotations next to the images of `write_split`, and check both."""
    split = split_at(root, name)
    split.ann_file.write_text(json.dumps(data))
    return check_coco_split(split, Settings(**{"num_workers": 0, **settings}))


def findings_of(root: Path, data: dict[str, Any], **settings: Any) -> dict[str, Finding]:
    """What `check` finds, by kind; of several with one kind the last."""
    return {one.kind: one for one in check(root, data, **settings).stats.findings}
