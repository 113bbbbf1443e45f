"""Reading and augmenting training images: image by image in one process, and with the data loader.

The images of the data loader are padded and normalized on their device, here the CPU. Results keep
every eighth row and column only: a training frees its images too, and reuses their memory.
"""

import contextlib
import io
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.coco import write_photos
from benchmarks.harness.measures import PROCESSOR_TIME, TIME, Measure
from benchmarks.original.dataset import CocoDetection as OriginalDataset
from benchmarks.original.dataset import TrainTransforms
from datasets.coco import CocoDetection, make_coco_transforms
from datasets.loading.loaders import SeededDataset, TrainLoader
from datasets.loading.samplers import EpochBatchSampler
from util.nested_tensor import collate_fn

TITLE = "Training images"
# 2 of 255 in a normalized image are 0.035, of which a part remains after division by its maximum.
_TOLERANCE = {"this project": 1e-5, "--resize torch": 0.035}


def cases(settings: Settings) -> Iterator[Case]:
    """JPEG files of 640 x 480 pixels."""
    num_images, rounds = (2, 1) if settings.quick else (16, 7)
    with tempfile.TemporaryDirectory() as name:
        ann_file = write_photos(Path(name), num_images)
        for masks in (False, True):
            yield _images_case(ann_file, masks, rounds)
        for workers in (0,) if settings.quick else (0, 2):
            yield epoch_case(ann_file, workers, rounds, TIME if workers else PROCESSOR_TIME)


def _images_case(ann_file: Path, masks: bool, rounds: int) -> Case:
    """Read and augment all images of `write_photos`, with one thread."""
    original, ours, with_torch = _datasets(ann_file, masks)
    return Case(
        f"{len(original)} images with {'masks' if masks else 'boxes'}",
        {
            "original": _read_all(original),
            "this project": _read_all(ours),
            "--resize torch": _read_all(with_torch),
        },
        rounds,
        tolerance=_TOLERANCE,
        measure=PROCESSOR_TIME,
        threads=1,
    )


def epoch_case(ann_file: Path, workers: int, rounds: int, measure: Measure = TIME) -> Case:
    """An epoch of the images of `write_photos` in batches of two, the same batches in both."""
    original, ours, with_torch = _datasets(ann_file, masks=False)
    plain = DataLoader(
        SeededDataset(original, 0),
        batch_sampler=EpochBatchSampler(len(original), 2, 0),
        num_workers=workers,
        collate_fn=collate_fn,
    )
    return Case(
        f"{len(original)} images in batches of 2, {workers} workers",
        {
            "original": lambda: [_thinned(batch.tensors) for batch, _ in plain],
            "this project": _batches_on_cpu(TrainLoader(ours, 2, workers, False, 0)),
            "--resize torch": _batches_on_cpu(TrainLoader(with_torch, 2, workers, False, 0)),
        },
        rounds,
        tolerance=_TOLERANCE,
        measure=measure,
        threads=1,
    )


def _batches_on_cpu(loader: TrainLoader) -> Callable[[], list[Tensor]]:
    return lambda: [_thinned(batch.to(torch.device("cpu")).tensors) for batch, _ in loader]


def _thinned(pixels: Tensor) -> Tensor:
    """Every eighth row and column, (..., H, W)."""
    return pixels[..., ::8, ::8].clone()


def _datasets(ann_file: Path, masks: bool) -> tuple[OriginalDataset, CocoDetection, CocoDetection]:
    """The original's dataset, and this project's with both kernels for resizing."""
    img_folder = ann_file.parent / "images"
    original = OriginalDataset(img_folder, ann_file, TrainTransforms(), masks)
    with contextlib.redirect_stdout(io.StringIO()):
        ours, with_torch = (
            CocoDetection(img_folder, ann_file, make_coco_transforms("train", resize=name), masks)
            for name in ("pillow", "torch")
        )
    return original, ours, with_torch


def _read_all(dataset: Any) -> Callable[[], list[Any]]:
    """A function that returns all samples; the random draws of an image depend on its index."""

    def read() -> list[Any]:
        """Return all samples."""
        samples = []
        for index in range(len(dataset)):
            random.seed(index)
            torch.default_generator.manual_seed(index)
            image, target = dataset[index]
            if "masks" in target:
                target["masks"] = _thinned(target["masks"])
            samples.append((_thinned(image), target))
        return samples

    return read
