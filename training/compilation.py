"""`torch.compile` for training (``--compile``)."""

import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from util.errors import UserError


def compile_parts(model: nn.Module, backend: str = "inductor") -> None:
    """Compile backbone and transformer in place, at their first call; state-dict keys are kept.

    Image sizes are symbolic: one graph of the transformer serves all of them, and up to four of the
    backbone, for odd and even heights and widths after its first stride. Padding masks, position
    encodings, heads and losses run as before.

    Args:
        model: detector, or segmentation model with a detector in ``detr``.
        backend: see `torch.compile`.
    """
    detector: Any = getattr(model, "detr", model)
    detector.backbone[0].body.compile(dynamic=True, backend=backend)
    detector.transformer.compile(dynamic=True, backend=backend)


def discard_graphs() -> None:
    """Discard all compiled graphs, so that the next calls compile again.

    Call it after parameters were frozen or unfrozen: PyTorch (2.11) does not notice that, and the
    graph of a frozen backbone has no backward pass.
    """
    torch.compiler.reset()


def describe_compilations() -> str:
    """One line with the number of graphs that this process has compiled."""
    from torch._dynamo.utils import counters  # takes a second

    graphs = counters["stats"]["unique_graphs"]
    breaks = sum(counters["graph_break"].values())
    return f"--compile: {graphs} graphs compiled, {breaks} graph breaks"


def check_compiler(device: torch.device) -> None:
    """Check that `torch.compile` finds what it needs to generate code.

    Raises:
        UserError: if Triton (GPU), or a C++ compiler or Python's header files (CPU) are missing.
    """
    if device.type == "cuda":
        if find_spec("triton") is None:
            raise UserError("--compile: needs the package triton on a GPU; install it, or omit it")
        return
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    if not any(shutil.which(compiler) for compiler in compilers):
        raise UserError(
            f"--compile: no C++ compiler ({' or '.join(compilers)}) found; install one, or omit "
            "--compile"
        )
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        raise UserError(
            "--compile: Python's header files (Python.h) are missing; install them, for example "
            "with the package python3-dev, or omit --compile"
        )
