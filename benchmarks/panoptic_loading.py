"""Reading a panoptic sample: image, segment map of 480 x 640 pixels with 15 segments, target.

The original computes boxes from masks that it multiplies with coordinate grids.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness.case import Case, Settings
from datasets.coco_panoptic import CocoPanoptic
from datasets.loading.images import read_image
from util.files.panoptic_png import encode_id_map

TITLE = "Panoptic samples"
_SIZE_HW = (480, 640)
_SEGMENTS = 15


def cases(settings: Settings) -> Iterator[Case]:
    """One sample, with one thread as in a DataLoader worker."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        segments = _write_data(folder)
        dataset = CocoPanoptic(folder, folder, folder / "panoptic.json")

        def ours() -> dict[str, Tensor]:
            """Read the first sample; return what `_load_as_original` returns."""
            target = dataset[0][1]
            return {key: target[key] for key in ("masks", "boxes", "area")}

        yield Case(
            f"{_SIZE_HW[0]} x {_SIZE_HW[1]} pixels, {_SEGMENTS} segments",
            {"original": lambda: _load_as_original(folder, segments), "this project": ours},
            rounds=15,
            tolerance=0,
            threads=1,
        )


def _write_data(folder: Path) -> list[dict[str, Any]]:
    """Write an image with its segment map, in the format of COCO; returns the segments."""
    rng = np.random.default_rng(0)
    ids = rng.choice(2**24 - 1, _SEGMENTS, replace=False) + 1
    rows, columns = np.indices(_SIZE_HW)
    id_map = ids[rows * 3 // _SIZE_HW[0] * 5 + columns * 5 // _SIZE_HW[1]]
    for name in ("image.png", "map.png"):
        (folder / name).write_bytes(encode_id_map(id_map))
    segments = [{"id": int(segment_id), "category_id": 1, "iscrowd": 0} for segment_id in ids]
    height, width = _SIZE_HW
    image = {"id": 1, "file_name": "image.png", "height": height, "width": width}
    data = {
        "images": [image],
        "annotations": [{"image_id": 1, "file_name": "map.png", "segments_info": segments}],
        "categories": [{"id": 1, "name": "thing", "isthing": 1}],
    }
    (folder / "panoptic.json").write_text(json.dumps(data))
    return segments


def _load_as_original(folder: Path, segments: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Masks (N, H, W), boxes (N, 4) xyxy and areas (N,), computed by their definitions."""
    read_image(folder / "image.png")
    colors = np.asarray(read_image(folder / "map.png")).astype(np.int32)
    id_map = colors @ np.array([1, 256, 256**2], dtype=np.int32)
    ids = [segment["id"] for segment in segments]
    assert set(np.unique(id_map).tolist()) == set(ids)
    masks = torch.from_numpy(id_map) == torch.tensor(ids)[:, None, None]
    rows, columns = (torch.from_numpy(index) for index in np.indices(_SIZE_HW))
    smallest = [torch.where(masks, index, 2**31).flatten(1).amin(1) for index in (columns, rows)]
    largest = [(masks * index).flatten(1).amax(1) for index in (columns, rows)]
    boxes = torch.stack(smallest + largest, dim=1).float()
    return {"masks": masks.to(torch.uint8), "boxes": boxes, "area": masks.flatten(1).sum(1)}
