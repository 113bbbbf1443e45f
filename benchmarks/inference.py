"""Inference of whole models: the original's eager float32 forward pass, and optimized models.

With many sizes, every call has new sizes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import cycle
from typing import Any

import torch
from torch import nn

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.inputs import R50, TINY, build, images
from benchmarks.harness.measures import TIME_OF_LONG_CALLS
from benchmarks.original.detector import original_of
from models.fast.inference import optimize_for_inference
from util.nested_tensor import NestedTensor

TITLE = "Inference"
_MODELS = {"R50": (R50, 7), "R50-DC5": (f"{R50} --dilation", 3), "panoptic": (f"{R50} --masks", 3)}
_QUICK = {"tiny": (TINY, 1), "tiny with masks": (f"{TINY} --masks", 1)}
_BFLOAT16_TOLERANCE = 0.1
_SIZES_PER_CALL = 20

Run = Callable[[], Any]


def cases(settings: Settings) -> Iterator[Case]:
    """Models at the size of their evaluation, and R50 on images of many sizes."""
    size = (64, 96) if settings.quick else (800, 1066)
    for name, (flags, rounds) in (_QUICK if settings.quick else _MODELS).items():
        yield case(name, flags, [size], settings.device, rounds)
    flags, shortest = (TINY, 64) if settings.quick else (R50, 800)
    yield many_sizes(flags, shortest, settings.device, 2 if settings.quick else _SIZES_PER_CALL)


def case(name: str, flags: str, sizes_hw: list[tuple[int, int]], device: str, rounds: int) -> Case:
    """Inference of a batch.

    Args:
        flags: of main.py.
        device: ``cpu`` or ``cuda``.
    """
    batch = images(sizes_hw, device)
    size = " x ".join(map(str, batch.tensors.shape))
    return _case(f"{name}, {size}", flags, device, rounds, lambda: cycle([batch]), batches=1)


def many_sizes(flags: str, shortest: int, device: str, count: int) -> Case:
    """Inference of images of different sizes, one at a time; no size comes twice.

    Args:
        flags: of main.py.
        shortest: short side in pixels; the long side is up to 5/3 of it.
        device: ``cpu`` or ``cuda``.
        count: images per call.
    """
    name = f"{count} images of different sizes, short side {shortest}"
    case = _case(name, flags, device, 1, lambda: _images_of_all_sizes(shortest, device), count)
    return replace(case, measure=TIME_OF_LONG_CALLS)


def _images_of_all_sizes(shortest: int, device: str) -> Iterator[NestedTensor]:
    generator = torch.Generator().manual_seed(0)
    longer = torch.randperm(shortest * 2 // 3, generator=generator) + shortest
    for number, side in enumerate(longer.tolist()):
        yield images([(shortest, side) if number % 3 else (side, shortest)], device, number)


def _case(
    name: str,
    flags: str,
    device: str,
    rounds: int,
    inputs: Callable[[], Iterable[NestedTensor]],
    batches: int,
) -> Case:
    model: Any = build(f"{flags} --no_aux_loss")[0].eval().to(device)
    prepared = optimize_for_inference(model)
    original = original_of(model)
    variants: Mapping[str, Run] = {
        "original": forward(original, inputs(), batches),
        "not prepared": forward(model, inputs(), batches),
        "prepared, float32": forward(prepared, inputs(), batches),
        "prepared, bfloat16": forward(prepared, inputs(), batches, torch.bfloat16),
    }
    tolerance = {**dict.fromkeys(variants, 1e-4), "prepared, bfloat16": _BFLOAT16_TOLERANCE}
    return Case(name, variants, rounds, tolerance)


def forward(
    model: nn.Module,
    inputs: Iterable[NestedTensor],
    batches: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Run:
    """A function that runs the model on the next batches; returns the last outputs."""
    source = iter(inputs)

    def run() -> Any:
        """Return the outputs of the last batch."""
        outputs = None
        for _ in range(batches):
            batch = next(source)
            device = batch.tensors.device.type
            with torch.no_grad(), torch.autocast(device, dtype, enabled=dtype != torch.float32):
                outputs = model(batch)
        return outputs

    return run
