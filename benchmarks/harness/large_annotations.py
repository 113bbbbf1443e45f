"""Annotation files of any size, written row by row: instances and segment maps as in COCO."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

NUM_CLASSES, WIDTH, HEIGHT = 90, 640, 480


def write_files(folder: Path, num_images: int, num_objects: int) -> None:
    """Write ``instances.json``, ``panoptic.json`` and empty images and segment maps."""
    rng = np.random.default_rng(0)
    image_of = rng.integers(1, num_images + 1, num_objects)
    (folder / "images").mkdir(parents=True)
    images = [_image(number) for number in range(1, num_images + 1)]
    for image in images:
        (folder / "images" / image["file_name"]).touch()
    instances = (_instance(rng, k, image_of[k]) for k in range(num_objects))
    _write(folder / "instances.json", images, instances)
    counts = np.bincount(image_of, minlength=num_images + 1)
    maps = (_map(rng, image, 2 + counts[image["id"]]) for image in images)
    _write(folder / "panoptic.json", images, maps)


def _write(path: Path, images: Sequence[Any], annotations: Iterator[Any]) -> None:
    categories = [{"id": k, "name": f"class {k}", "isthing": 1} for k in range(1, NUM_CLASSES + 1)]
    with open(path, "w") as file:
        file.write(f'{{"info": {{"year": 2017}}, "images": {json.dumps(images)}, "annotations": [')
        for number, row in enumerate(annotations):
            file.write(", " * bool(number) + json.dumps(row))
        file.write(f'], "categories": {json.dumps(categories)}}}')


def _image(number: int) -> dict[str, Any]:
    name = f"{number:012d}.jpg"
    return {
        "license": 3,
        "file_name": name,
        "coco_url": f"http://images.cocodataset.org/train2017/{name}",
        "height": HEIGHT,
        "width": WIDTH,
        "date_captured": "2013-11-14 11:18:45",
        "flickr_url": "http://farm9.staticflickr.com/8186/8119368305_4e622c8349_z.jpg",
        "id": number,
    }


def _instance(rng: np.random.Generator, index: int, image_id: int) -> dict[str, Any]:
    """An object: a polygon around a center, with two decimals, as in COCO; one in 80 is a crowd."""
    num_points = 3 + min(int(rng.gamma(2.0, 6.5)), 400)
    angles = np.sort(rng.random(num_points)) * 2 * np.pi
    radii = rng.uniform(5, 150) * rng.uniform(0.6, 1.0, num_points)
    points = np.stack([WIDTH / 2 + radii * np.cos(angles), HEIGHT / 2 + radii * np.sin(angles)], 1)
    points = points.clip(0, [WIDTH, HEIGHT])
    low, extent = points.min(0), np.ptp(points, axis=0)
    is_crowd = index % 80 == 0
    shape: Any = [points.round(2).ravel().tolist()]
    if is_crowd:
        shape = {"counts": [WIDTH * HEIGHT // 2, WIDTH * HEIGHT // 2], "size": [HEIGHT, WIDTH]}
    return {
        "segmentation": shape,
        "area": round(float(extent.prod()) * 0.7, 4),
        "iscrowd": int(is_crowd),
        "image_id": int(image_id),
        "bbox": [*low.round(2).tolist(), *extent.round(2).tolist()],
        "category_id": int(rng.integers(1, NUM_CLASSES + 1)),
        "id": index + 1,
    }


def _map(rng: np.random.Generator, image: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Segments of an image."""
    ids = rng.choice(2**24 - 1, count, replace=False) + 1
    segments = [
        {
            "id": int(number),
            "category_id": int(rng.integers(1, NUM_CLASSES + 1)),
            "iscrowd": 0,
            "bbox": rng.integers(0, HEIGHT, 4).tolist(),
            "area": int(rng.integers(1, 100_000)),
        }
        for number in ids
    ]
    name = image["file_name"]
    return {"segments_info": segments, "file_name": name, "image_id": image["id"]}
