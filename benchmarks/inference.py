"""Inference of whole models: the original's eager float32 forward pass, and this project's."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.inputs import R50, TINY, build, images
from benchmarks.original.detector import original_of
from util.nested_tensor import NestedTensor

TITLE = "Inference"
_MODELS = {"R50": (R50, 7), "R50-DC5": (f"{R50} --dilation", 3), "panoptic": (f"{R50} --masks", 3)}
_QUICK = {"tiny": (TINY, 1), "tiny with masks": (f"{TINY} --masks", 1)}


def cases(settings: Settings) -> Iterator[Case]:
    """Models at the size of their evaluation."""
    size = (64, 96) if settings.quick else (800, 1066)
    for name, (flags, rounds) in (_QUICK if settings.quick else _MODELS).items():
        yield case(name, flags, [size], settings.device, rounds)


def case(name: str, flags: str, sizes_hw: list[tuple[int, int]], device: str, rounds: int) -> Case:
    """Inference of a batch.

    Args:
        name: name of the model.
        flags: of main.py.
        sizes_hw: height and width of each image.
        device: ``cpu`` or ``cuda``.
        rounds: calls of each variant.
    """
    model: Any = build(f"{flags} --no_aux_loss")[0].eval().to(device)
    batch = images(sizes_hw, device)
    size = " x ".join(map(str, batch.tensors.shape))
    variants = {
        "original": forward(original_of(model), batch),
        "float32": forward(model, batch),
    }
    return Case(f"{name}, {size}", variants, rounds)


def forward(model: nn.Module, batch: NestedTensor) -> Callable[[], dict[str, Any]]:
    """A function that runs the model without gradients."""

    def run() -> dict[str, Any]:
        with torch.no_grad():
            outputs: dict[str, Any] = model(batch)
        return outputs

    return run
