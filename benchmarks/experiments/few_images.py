"""Write a COCO folder with a random subset of the training images, and all validation images.

    python -m benchmarks.experiments.few_images data/shapes data/few_s43 --seed 43

The image folders of the copy are links to those of the original. Results: docs/convergence.md.
"""

import argparse
import json
import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_TRAIN = Path("annotations/instances_train2017.json")
_VAL = Path("annotations/instances_val2017.json")


def subset(data: dict[str, Any], num_images: int, seed: int) -> dict[str, Any]:
    """The same COCO annotations with only ``num_images`` random images, in their order.

    Raises:
        ValueError: if there are fewer images.
    """
    ids = sorted(image["id"] for image in data["images"])
    chosen = set(random.Random(seed).sample(ids, num_images))
    images = [image for image in data["images"] if image["id"] in chosen]
    annotations = [each for each in data["annotations"] if each["image_id"] in chosen]
    return {**data, "images": images, "annotations": annotations}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="folder in COCO's layout")
    parser.add_argument("output", type=Path, help="folder to write; must not exist")
    parser.add_argument("--num_images", type=int, default=300)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args(argv)
    data = json.loads((args.source / _TRAIN).read_text())
    chosen = subset(data, args.num_images, args.seed)
    (args.output / _TRAIN).parent.mkdir(parents=True)
    (args.output / _TRAIN).write_text(json.dumps(chosen))
    shutil.copy(args.source / _VAL, args.output / _VAL)
    for name in ("train2017", "val2017"):
        os.symlink((args.source / name).resolve(), args.output / name)
    print(f"{args.output}: {len(chosen['images'])} training images")


if __name__ == "__main__":
    main()
