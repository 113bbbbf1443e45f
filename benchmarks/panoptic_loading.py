"""Time to read a panoptic picture with its target, against the plain way.

    python -m benchmarks.panoptic_loading

A drawn segment map of 480 x 640 pixels with 15 segments is read by
`datasets.coco_panoptic.CocoPanoptic` and by the plain way that stands here, in turn in this process
on one thread, as in a data worker. Prints milliseconds for each, their ratio (medians over rounds),
and how many of masks, boxes and areas are equal.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.coco_panoptic import CocoPanoptic
from datasets.loading.images import read_image
from util.panoptic_coding import encode_id_map

_SIZE_HW = (480, 640)
_SEGMENTS = 15


def write_data(folder: Path) -> None:
    """One picture with its segment map, in the layout of COCO."""
    rng = np.random.default_rng(0)
    ids = rng.choice(2**24 - 1, _SEGMENTS, replace=False) + 1
    rows, columns = np.indices(_SIZE_HW)
    id_map = ids[rows * 3 // _SIZE_HW[0] * 5 + columns * 5 // _SIZE_HW[1]]
    for name in ("picture.png", "map.png"):
        (folder / name).write_bytes(encode_id_map(id_map))
    segments = [{"id": int(one), "category_id": 1, "iscrowd": 0} for one in ids]
    height, width = _SIZE_HW
    picture = {"id": 1, "file_name": "picture.png", "height": height, "width": width}
    data = {
        "images": [picture],
        "annotations": [{"image_id": 1, "file_name": "map.png", "segments_info": segments}],
        "categories": [{"id": 1, "name": "thing", "isthing": 1}],
    }
    (folder / "panoptic.json").write_text(json.dumps(data))


def read_plainly(folder: Path, segments: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Masks (N, H, W), boxes (N, 4) xyxy and areas (N,), each written down as it is defined."""
    read_image(folder / "picture.png")
    colours = np.asarray(read_image(folder / "map.png")).astype(np.int32)
    id_map = colours @ np.array([1, 256, 256**2], dtype=np.int32)
    ids = [one["id"] for one in segments]
    assert set(np.unique(id_map).tolist()) == set(ids)
    masks = torch.from_numpy(id_map) == torch.tensor(ids)[:, None, None]
    rows, columns = (torch.from_numpy(index) for index in np.indices(_SIZE_HW))
    smallest = [torch.where(masks, place, 2**31).flatten(1).amin(1) for place in (columns, rows)]
    largest = [(masks * place).flatten(1).amax(1) for place in (columns, rows)]
    boxes = torch.stack(smallest + largest, dim=1).float()
    return {"masks": masks.to(torch.uint8), "boxes": boxes, "area": masks.flatten(1).sum(1)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30, help="calls of each variant")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        dataset = CocoPanoptic(folder, folder, folder / "panoptic.json")
        segments = dataset.coco["annotations"][0]["segments_info"]
        ways = {
            "plain": lambda: read_plainly(folder, segments),
            "ours": lambda: dataset[0][1],
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        targets: dict[str, dict[str, Tensor]] = {}
        for _ in range(args.rounds):
            for way, read in ways.items():
                start = time.perf_counter()
                targets[way] = read()
                seconds[way].append(time.perf_counter() - start)
    plain, ours = (statistics.median(seconds[way]) * 1e3 for way in ("plain", "ours"))
    equal = [torch.equal(value, targets["ours"][key]) for key, value in targets["plain"].items()]
    print(f"torch {torch.__version__}, {args.rounds} rounds")
    print(f"plain {plain:.1f} ms, ours {ours:.1f} ms, ratio {plain / ours:.1f}")
    print(f"equal: {sum(equal)} of {len(equal)}")


if __name__ == "__main__":
    main()
