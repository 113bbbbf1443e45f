"""Optimized models, and exported models in ONNX Runtime, with as many threads as PyTorch."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.inputs import R50, TINY, build
from benchmarks.original.detector import original_of
from export import onnx
from export.check import padded_batches
from export.wrapper import Example, ExportWrapper
from models.fast.inference import optimize_for_inference

TITLE = "ONNX Runtime"
_MODELS = {"R50": R50, "R50-DC5": f"{R50} --dilation", "panoptic": f"{R50} --masks"}


def cases(settings: Settings) -> Iterator[Case]:
    """One image of 800 x 1066 pixels with padding."""
    size = (64, 96) if settings.quick else (800, 1066)
    for name, flags in ({"tiny": TINY} if settings.quick else _MODELS).items():
        yield _case(name, flags, size)


@torch.no_grad()
def _case(name: str, flags: str, size_hw: tuple[int, int]) -> Case:
    model: Any = build(f"{flags} --no_aux_loss")[0].eval()
    original, ours = (ExportWrapper(network, raw=True) for network in (original_of(model), model))
    prepared = optimize_for_inference(ours)
    batch = next(padded_batches([size_hw], [1]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(onnx.to_onnx(ours, batch, {}), path)
        exported = onnx.load(path, torch.get_num_threads())
    return Case(
        f"{name}, 1 x 3 x {size_hw[0]} x {size_hw[1]}",
        {
            "original": lambda: _run(original, batch),
            "prepared, float32": lambda: _run(prepared, batch),
            "ONNX Runtime": lambda: exported(*batch),
        },
        tolerance=1e-3,
    )


@torch.no_grad()
def _run(model: nn.Module, batch: Example) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = model(*batch)
    return outputs
