"""Files of a split of the shapes dataset: images, segment maps and annotations in COCO's format."""

import json
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from datasets.shapes.drawing import (
    STUFF_CLASSES,
    THING_CLASSES,
    Scene,
    Segment,
    draw_scene,
    tight_box,
)
from util.system.forked import map_on_all_cores

SPLITS = ("train", "val")  # an image depends on the position of its split here
FIRST_IMAGE_ID = {"train": 100_001, "val": 1}  # ids differ between splits
MAX_IMAGES = 100_000  # per split, so that image ids differ between splits
SEGMENTS_PER_IMAGE = 10  # segment id = image id * 10 + number: unique, and fits into RGB

CATEGORY_IDS = {name: index for index, name in enumerate((*THING_CLASSES, *STUFF_CLASSES), start=1)}

_MIN_PER_PROCESS = 200  # images

_Annotations = tuple[list[dict[str, Any]], dict[str, Any]]  # instances; panoptic data


def write_split(root: Path, split: str, num_images: int, image_size: int, seed: int) -> None:
    """Draw the images of a split on all cores, then write both annotation files.

    Args:
        root: folder of the dataset; its subfolder ``annotations`` exists.
        split: one of `SPLITS`.
        image_size: side of the square images in pixels.

    Raises:
        OSError: if a file cannot be written.
    """
    for folder in (_image_folder(root, split), _panoptic_folder(root, split)):
        folder.mkdir()

    def write_images(indices: range) -> list[_Annotations]:
        """Write the images of some indices; return their annotations."""
        return [_write_image(root, split, index, image_size, seed) for index in indices]

    rows = map_on_all_cores(write_images, num_images, _MIN_PER_PROCESS)
    first = FIRST_IMAGE_ID[split]
    images = [_image_row(first + index, image_size) for index in range(num_images)]
    instances = [annotation for of_image, _ in rows for annotation in of_image]
    panoptic = [annotation for _, annotation in rows]
    for kind, names, annotations in (
        ("instances", THING_CLASSES, instances),
        ("panoptic", (*THING_CLASSES, *STUFF_CLASSES), panoptic),
    ):
        content = {
            "info": {"description": "drawn shapes"},
            "images": images,
            "annotations": annotations,
            "categories": _categories(names),
        }
        write_json(root / "annotations" / f"{kind}_{split}2017.json", content)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one line."""
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def _write_image(root: Path, split: str, index: int, image_size: int, seed: int) -> _Annotations:
    """Draw an image, and write it with its segment map; return its annotations."""
    scene = draw_scene(np.random.default_rng([seed, SPLITS.index(split), index]), image_size)
    image_id = FIRST_IMAGE_ID[split] + index
    file_name = _file_name(image_id)
    rows = _segment_rows(image_id, scene)
    (_image_folder(root, split) / file_name).write_bytes(encode_png(scene.image))
    (_panoptic_folder(root, split) / file_name).write_bytes(encode_png(_panoptic_map(rows)))
    segments = [fields for fields, _ in rows]
    panoptic = {"image_id": image_id, "file_name": file_name, "segments_info": segments}
    return _instance_annotations(image_id, rows), panoptic


def _image_folder(root: Path, split: str) -> Path:
    return root / f"{split}2017"


def _panoptic_folder(root: Path, split: str) -> Path:
    return root / f"panoptic_{split}2017"


def _file_name(image_id: int) -> str:
    return f"{image_id:012d}.png"


def _image_row(image_id: int, image_size: int) -> dict[str, Any]:
    size = {"height": image_size, "width": image_size}
    return {"id": image_id, "file_name": _file_name(image_id), **size}


def _categories(names: Iterable[str]) -> list[dict[str, Any]]:
    return [
        {
            "id": CATEGORY_IDS[name],
            "name": name,
            "supercategory": "shape" if name in THING_CLASSES else "texture",
            "isthing": int(name in THING_CLASSES),
        }
        for name in names
    ]


def _segment_rows(image_id: int, scene: Scene) -> list[tuple[dict[str, Any], Segment]]:
    """Return the segments, things first, with the fields common to both annotation files."""
    return [
        (
            {
                "id": segment_id,
                "category_id": CATEGORY_IDS[segment.class_name],
                "bbox": list(tight_box(segment.mask)),
                "area": int(np.count_nonzero(segment.mask)),
                "iscrowd": 0,
            },
            segment,
        )
        for segment_id, segment in enumerate(
            (*scene.things, *scene.stuff), start=image_id * SEGMENTS_PER_IMAGE
        )
    ]


def _instance_annotations(
    image_id: int, rows: list[tuple[dict[str, Any], Segment]]
) -> list[dict[str, Any]]:
    return [
        {
            **fields,
            "image_id": image_id,
            "segmentation": run_lengths(segment.mask),
            "visible_share": round(segment.visible_share, 4),
        }
        for fields, segment in rows
        if segment.class_name in THING_CLASSES
    ]


def _panoptic_map(rows: list[tuple[dict[str, Any], Segment]]) -> np.ndarray:
    """Encode segment ids as uint8 (size, size, 3): red + 256 green + 256**2 blue."""
    segment_ids = np.zeros(rows[0][1].mask.shape, dtype="<u4")
    for fields, segment in rows:
        segment_ids[segment.mask] = fields["id"]
    return segment_ids.view(np.uint8).reshape(*segment_ids.shape, 4)[..., :3]


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """Encode a mask as COCO's uncompressed RLE.

    Args:
        mask: bool (height, width).

    Returns:
        ``counts``: lengths of alternating runs of 0 and 1, column by column, beginning with 0;
        ``size``: [height, width].
    """
    pixels = mask.ravel(order="F")
    starts = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    edges = np.concatenate(([0], starts, [pixels.size]))
    counts = np.diff(edges).tolist()
    return {"counts": [0, *counts] if pixels[0] else counts, "size": list(mask.shape)}


def encode_png(image: np.ndarray) -> bytes:
    """Encode an RGB image as PNG; twice as fast as Pillow, and independent of its version.

    Args:
        image: uint8 (height, width, 3).
    """
    height, width, _ = image.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # first byte: filter type 0
    rows[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), level=1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(*chunk) for chunk in chunks)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
