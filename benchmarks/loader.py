"""Reading and augmenting training images.

Image by image in one process; and in batches of two from a data worker to normalized batches on the
CPU, where the original's worker normalizes and pads, and ours sends 8-bit images. Processor time is
that of the worker and of the process that receives the batches.
"""

import contextlib
import io
import random
import resource
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.coco import write_photos
from benchmarks.harness.measures import TIME, Measure
from benchmarks.original.dataset import CocoDetection as OriginalDataset
from benchmarks.original.transforms import TrainTransforms
from datasets.coco import CocoDetection, make_coco_transforms
from datasets.loading.loaders import TrainLoader
from datasets.loading.seeded import SeededDataset
from util.nested_tensor import collate_fn

TITLE = "Training images"


def cases(settings: Settings) -> Iterator[Case]:
    """JPEG files of 640 x 480 pixels."""
    num_images, rounds = (4, 1) if settings.quick else (32, 7)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ann_file = write_photos(folder, num_images)
        for masks in (False, True):
            yield _case(folder / "images", ann_file, num_images, masks, rounds)
        datasets = _datasets(folder / "images", ann_file, masks=False)
        for name, measure in (("time", TIME), ("processor time", _PROCESSOR_TIME)):
            yield _batches_case(*datasets, f"{num_images} images by a worker, {name}", measure)


def _case(img_folder: Path, ann_file: Path, num_images: int, masks: bool, rounds: int) -> Case:
    """Read and augment all images, with one thread."""
    original, dataset = _datasets(img_folder, ann_file, masks)
    return Case(
        f"{num_images} images with {'masks' if masks else 'boxes'}",
        {"original": _read_all(original), "this project": _read_all(dataset)},
        rounds,
        tolerance=1e-5,
        threads=1,
    )


def _datasets(
    img_folder: Path, ann_file: Path, masks: bool
) -> tuple[OriginalDataset, CocoDetection]:
    original = OriginalDataset(img_folder, ann_file, TrainTransforms(), masks)
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = CocoDetection(img_folder, ann_file, make_coco_transforms("train"), masks)
    return original, dataset


def _batches_case(
    original: OriginalDataset, dataset: CocoDetection, name: str, measure: Measure
) -> Case:
    """Load an epoch with a data worker; the results are the normalized images of its last batch."""
    ours = TrainLoader(dataset, _BATCH_SIZE, 1, pin_memory=False, seed=0)
    baseline = DataLoader(
        SeededDataset(original, seed=0),  # the same draws
        batch_sampler=ours.batches,
        num_workers=1,
        collate_fn=collate_fn,
    )
    variants = {"original": _last_batch(baseline), "this project": _last_batch(ours)}
    return Case(name, variants, rounds=5, tolerance=1e-5, threads=1, measure=measure)


def _last_batch(loader: Iterable[Any]) -> Callable[[], Any]:
    """A function that loads all batches, and returns the images of the last one."""

    def load() -> Any:
        images = None
        for batch, _ in loader:
            images = batch.to(torch.device("cpu"))
        return None if images is None else images.tensors

    return load


def _processor_ms(variant: Callable[[], Any]) -> tuple[Any, float]:
    before = _processor_seconds()
    result = variant()
    return result, (_processor_seconds() - before) * 1e3


def _processor_seconds() -> float:
    """Processor time of this process and of the processes that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


_PROCESSOR_TIME = Measure("ms", _processor_ms, has_warm_up=True)
_BATCH_SIZE = 2


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
