"""Time to load a panoptic image with its target, compared with a naive implementation.

    python -m benchmarks.panoptic_loading

`datasets.coco_panoptic.CocoPanoptic` and `load_naively` load a segment map of 480 x 640 pixels with
15 segments, with one thread as in a data worker. Prints milliseconds of both, their ratio, and how
many of masks, boxes and areas are equal.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import benchmark_parser, compare_times, print_setup
from datasets.coco_panoptic import CocoPanoptic
from datasets.loading.images import read_image
from util.panoptic_coding import encode_id_map

_SIZE_HW = (480, 640)
_SEGMENTS = 15


def write_data(folder: Path) -> None:
    """Write an image with its segment map, in the format of COCO."""
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


def load_naively(folder: Path, segments: list[dict[str, Any]]) -> dict[str, Tensor]:
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


def main() -> None:
    """Run the benchmark and print the results."""
    args = benchmark_parser(__doc__, rounds=30).parse_args()
    torch.set_num_threads(1)
    print_setup(args.rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        dataset = CocoPanoptic(folder, folder, folder / "panoptic.json")
        segments = dataset.coco["annotations"][0]["segments_info"]
        naive, ours = load_naively(folder, segments), dataset[0][1]
        times = compare_times(
            {"naive": lambda: load_naively(folder, segments), "ours": lambda: dataset[0]},
            args.rounds,
        )
    equal = [torch.equal(value, ours[key]) for key, value in naive.items()]
    print(f"{times}, equal: {sum(equal)} of {len(equal)}")


if __name__ == "__main__":
    main()
