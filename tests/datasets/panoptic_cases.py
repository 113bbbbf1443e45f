"""A panoptic directory made here, and segment maps for the tests of what reads them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from util.files.panoptic_png import encode_id_map

HEIGHT, WIDTH = 12, 16
IMAGE_IDS = (30, 10)  # not in order, as in real files
PERSON, DOG, SKY, GRASS = 1, 18, 187, 193
CATEGORIES = [
    {"id": PERSON, "name": "person", "isthing": 1},
    {"id": DOG, "name": "dog", "isthing": 1},
    {"id": SKY, "name": "sky", "isthing": 0},
    {"id": GRASS, "name": "grass", "isthing": 0},
]


def id_map_of(image_id: int) -> np.ndarray:
    """Sky over grass, a person and a dog on it, a corner of void."""
    ids = np.full((HEIGHT, WIDTH), 1000 * image_id + 3)
    ids[6:] = 1000 * image_id + 4
    ids[4:9, 2:6] = 1000 * image_id + 1
    ids[7:10, 8:14] = 1000 * image_id + 2
    ids[:2, :2] = 0
    return ids


def segments_of(image_id: int) -> list[dict[str, Any]]:
    """Person, dog, sky and grass of `id_map_of`, with their areas."""
    ids = id_map_of(image_id)
    return [
        {"id": number, "category_id": category, "iscrowd": 0, "area": int((ids == number).sum())}
        for number, category in enumerate((PERSON, DOG, SKY, GRASS), start=1000 * image_id + 1)
    ]


def write_panoptic(
    root: Path, change: Callable[[dict[str, Any]], Any] = lambda data: None, split: str = "val"
) -> Path:
    """Images, segment maps, and panoptic and instance annotations in the layout of COCO 2017.

    Args:
        root: folder to write to.
        change: what to do to the panoptic JSON before it is written.
        split: "train" or "val".
    """
    images, maps = root / f"{split}2017", root / f"panoptic_{split}2017"
    for folder in (images, maps, root / "annotations"):
        folder.mkdir(parents=True, exist_ok=True)
    for image_id in IMAGE_IDS:
        picture = np.full((HEIGHT, WIDTH, 3), image_id, dtype=np.uint8)
        Image.fromarray(picture).save(images / f"{image_id}.png")
        (maps / f"{image_id}.png").write_bytes(encode_id_map(id_map_of(image_id)))
    rows = [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in IMAGE_IDS]
    data = {
        "images": rows,
        "annotations": [
            {"image_id": i, "file_name": f"{i}.png", "segments_info": segments_of(i)}
            for i in reversed(IMAGE_IDS)
        ],
        "categories": CATEGORIES,
    }
    instances = {
        "images": rows,
        "annotations": [
            {"id": i, "image_id": i, "category_id": PERSON, "bbox": [2, 4, 4, 5], "area": 20}
            | {"iscrowd": 0, "segmentation": [[2, 4, 6, 4, 6, 9, 2, 9]]}
            for i in IMAGE_IDS
        ],
        "categories": CATEGORIES[:2],
    }
    copied = json.loads(json.dumps(data))
    change(copied)
    for kind, content in (("panoptic", copied), ("instances", instances)):
        (root / "annotations" / f"{kind}_{split}2017.json").write_text(json.dumps(content))
    return root
