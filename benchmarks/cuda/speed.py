"""Training, inference and evaluation on a GPU, as in a run on COCO, with data made in memory."""

import contextlib
import io
import math
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.cuda import synchronizations
from benchmarks.harness.case import Case, Settings
from benchmarks.harness.coco import make_data
from benchmarks.harness.inputs import R50, TINY, build, images, targets
from benchmarks.harness.measures import returned
from benchmarks.inference import case as inference
from benchmarks.training_step import Train, original_trainer, trainer
from datasets.coco import PUBLISHED_SCALES
from engine import evaluate, forward_pass
from models.postprocess import PostProcess
from training.network import prepare_for_training
from util.nested_tensor import NestedTensor

TITLE = "GPU: training, inference, evaluation"
Batch = tuple[NestedTensor, list[dict[str, Any]]]


def cases(settings: Settings) -> Iterator[Case]:
    """Speed, and how often the host waits for the GPU."""
    device, quick = settings.device, settings.quick
    flags, size = (TINY, (64, 96)) if quick else (R50, (800, 1066))
    batches = multi_scale_batches(*((2, 1, (64, 96)) if quick else (8, 20, PUBLISHED_SCALES)))
    yield _training(flags, batches, device)
    yield _waits_of_training(flags, batches[0], device)
    for number in (1, 2) if quick else (1, 16):
        name = f"inference, batch {number}"
        yield inference(name, flags, [size] * number, device, rounds=1 if quick else 20)
    yield _evaluation(flags, size, 4 if quick else 5000, 2 if quick else 16, device)


def multi_scale_batches(
    batch_size: int, num_batches: int, scales: tuple[int, ...], seed: int = 0
) -> list[Batch]:
    """Batches of random images on the CPU, with random short sides and aspect ratios."""
    rng = random.Random(seed)
    batches = []
    for number in range(num_batches):
        sizes = []
        for _ in range(batch_size):
            short = rng.choice(scales)
            sides = (short, min(1333, round(short * rng.uniform(1, 1.6))))
            sizes.append(sides if rng.random() < 0.7 else sides[::-1])
        batches.append((images(sizes, seed=number), targets(batch_size)))
    return batches


def _training(flags: str, batches: list[Batch], device: str) -> Case:
    """Training steps with batches of different sizes; losses are compared after a single step."""
    num_images = sum(len(objects) for _, objects in batches)
    return Case(
        f"training, {num_images} images, batch {len(batches[0][1])}, several scales",
        {kind: partial(train, batches) for kind, train in _trainers(flags, device).items()},
        rounds=3,
        tolerance={"off": 1e-2 if len(batches) == 1 else math.inf, "bf16": math.inf},
    )


def _trainers(flags: str, device: str) -> dict[str, Train]:
    flags = f"{flags} --dropout 0 --device {device}"
    return {
        "original": original_trainer(flags),
        **{amp: trainer(flags, amp) for amp in ("off", "bf16")},
    }


def _waits_of_training(flags: str, batch: Batch, device: str) -> Case:
    """Synchronizations per step between log lines."""

    def waits(train: Train) -> Callable[[], float]:
        """Build a measurement of synchronizations per step."""
        return lambda: synchronizations.per_step(lambda steps: train([batch] * steps))

    return Case(
        "training, between log lines",
        {kind: waits(train) for kind, train in _trainers(flags, device).items()},
        rounds=1,
        measure=returned("synchronizations per step"),
    )


def _evaluation(
    flags: str, size_hw: tuple[int, int], num_images: int, batch_size: int, device: str
) -> Case:
    """`engine.evaluate` with losses and COCO metrics; baseline: the forward pass alone."""
    model, criterion = build(f"{flags} --no_aux_loss --device {device}")
    prepare_for_training(model.eval(), "bf16")
    ground_truth = make_data(num_images, 0, seed=0)[0]
    samples = images([size_hw] * batch_size)
    number_of_batches = num_images // batch_size
    objects = targets(num_images)
    for image_id, target in enumerate(objects, start=1):
        target |= {"image_id": torch.tensor([image_id]), "orig_size": torch.tensor([480, 640])}

    def batches() -> Iterator[Batch]:
        """Yield the same images with the targets of each batch."""
        for first in range(0, number_of_batches * batch_size, batch_size):
            yield samples, objects[first : first + batch_size]

    @torch.no_grad()
    def forward() -> int:
        """Run the forward passes only; return the number of batches."""
        on_device = samples.to(device)
        for _ in range(number_of_batches):
            forward_pass(model, on_device, torch.device(device), "bf16")
        return number_of_batches

    def whole() -> int:
        """Run `engine.evaluate`; return the number of batches."""
        loader = _Loader(batches, number_of_batches)
        postprocessors: dict[str, nn.Module] = {"bbox": PostProcess().to(device)}
        with contextlib.redirect_stdout(io.StringIO()):
            evaluate(
                *(model, criterion, postprocessors, loader, ground_truth),
                *(torch.device(device), None, "bf16"),
            )
        return number_of_batches

    name = f"evaluation in bf16, {number_of_batches * batch_size} images, batch {batch_size}"
    return Case(name, {"forward pass alone": forward, "evaluation": whole}, rounds=1)


class _Loader:
    """Batches that can be iterated again, with a length."""

    def __init__(self, batches: Callable[[], Iterator[Batch]], length: int) -> None:
        self._batches, self._length = batches, length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        return self._batches()
