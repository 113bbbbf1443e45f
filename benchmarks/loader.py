"""Reading and augmenting training images, image by image in one process, as in a data worker."""

import contextlib
import io
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.coco import write_photos
from benchmarks.original.dataset import CocoDetection as OriginalDataset
from benchmarks.original.transforms import TrainTransforms
from datasets.coco import CocoDetection, make_coco_transforms

TITLE = "Training images"


def cases(settings: Settings) -> Iterator[Case]:
    """JPEG files of 640 x 480 pixels."""
    num_images, rounds = (2, 1) if settings.quick else (16, 7)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ann_file = write_photos(folder, num_images)
        for masks in (False, True):
            yield _case(folder / "images", ann_file, num_images, masks, rounds)


def _case(img_folder: Path, ann_file: Path, num_images: int, masks: bool, rounds: int) -> Case:
    """Read and augment all images, with one thread."""
    original = OriginalDataset(img_folder, ann_file, TrainTransforms(), masks)
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = CocoDetection(img_folder, ann_file, make_coco_transforms("train"), masks)
    return Case(
        f"{num_images} images with {'masks' if masks else 'boxes'}",
        {"original": _read_all(original), "this project": _read_all(dataset)},
        rounds,
        tolerance=1e-5,
        threads=1,
    )


def _read_all(dataset: Any) -> Callable[[], list[Any]]:
    """A function that returns all samples; the random draws of an image depend on its index."""

    def read() -> list[Any]:
        samples = []
        for index in range(len(dataset)):
            random.seed(index)
            torch.manual_seed(index)
            samples.append(dataset[index])
        return samples

    return read
