"""A training step: forward pass, losses, backward pass, clipping, update.

The original's is in float32. The step of this project is `engine.train_one_epoch` with one batch.
In the case of many sizes, a call is one step for each of the sizes. Activation checkpointing is
compared by its peak memory.
"""

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.harness.case import Case, Settings, gradient_difference
from benchmarks.harness.inputs import R50, TINY, build, flags_of, gradients_of, images, targets
from benchmarks.harness.measures import TIME_OF_LONG_CALLS, peak_memory
from benchmarks.original.detector import build_optimizer, original_of, training_step
from engine import train_one_epoch
from models.fast.recomputation import recompute_activations
from training.network import prepare_for_training
from util import optimizer as optimizers

TITLE = "Training step"


def cases(settings: Settings) -> Iterator[Case]:
    """Batches of one size and of many sizes, gradients, and memory."""
    size, batch_size = ((64, 96), 2) if settings.quick else ((608, 800), 2)
    flags = f"{TINY if settings.quick else R50} --device {settings.device}"
    described = f"{batch_size} x 3 x {size[0]} x {size[1]}"
    rounds, tolerance = 1 if settings.quick else 3, {"float32": 1e-3, "bf16": 0.1}
    without_dropout = variants(f"{flags} --dropout 0", [size], batch_size)
    yield Case(f"{described}, dropout 0", without_dropout, rounds, tolerance=tolerance)
    dropout = variants(flags, [size], batch_size)
    yield Case(f"{described}, dropout 0.1", dropout, rounds, tolerance=math.inf)
    sizes = _many_sizes(2 if settings.quick else 25, size)
    many = variants(f"{flags} --dropout 0", sizes, batch_size)
    name = f"{len(sizes)} sizes, dropout 0"
    yield Case(name, many, rounds=1, tolerance=math.inf, measure=TIME_OF_LONG_CALLS)
    yield gradients(f"gradient errors, {described}", f"{flags} --dropout 0", size, batch_size)
    yield checkpointing(f"peak memory, {described}", flags, size, batch_size)


def _many_sizes(count: int, largest_hw: tuple[int, int]) -> list[tuple[int, int]]:
    """Sizes with sides of 25 to 60 % of the largest, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    factors = (0.25 + 0.35 * torch.rand(count, 2, generator=generator)).tolist()
    return [(int(largest_hw[0] * a), int(largest_hw[1] * b)) for a, b in factors]


def gradients(name: str, flags: str, size_hw: tuple[int, int], batch_size: int) -> Case:
    """Errors of gradients. Baseline: the original in float64, where rounding is negligible."""
    passes: dict[str, Callable[[], list[torch.Tensor]]] = {}
    for precision, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        model, criterion = build(flags)
        networks = {"original": original_of(model.train()), "this project": model}
        prepare_for_training(model, "off")
        for kind, network in networks.items():
            passes[f"{kind}, {precision}"] = _backward(
                network.to(dtype), criterion.to(dtype), flags, size_hw, batch_size
            )
    tolerance = {name: 1e-9 if name.endswith("float64") else 1e-3 for name in passes}
    options: dict[str, Any] = {"compare": gradient_difference, "measure": TIME_OF_LONG_CALLS}
    return Case(name, passes, rounds=1, tolerance=tolerance, **options)


def checkpointing(name: str, flags: str, size_hw: tuple[int, int], batch_size: int) -> Case:
    """Memory of a forward and backward pass, with and without ``--activation_checkpointing``."""
    model, criterion = build(f"{flags} --dropout 0")
    networks: dict[str, nn.Module] = {"original": original_of(model.train())}
    for kind in ("float32", "activation checkpointing"):
        networks[kind] = build(f"{flags} --dropout 0")[0].train()
        prepare_for_training(networks[kind], "off")
    recompute_activations(networks["activation checkpointing"])
    passes = {
        kind: _backward(network, criterion, flags, size_hw, batch_size)
        for kind, network in networks.items()
    }
    # Rounding changes the sign of some inputs of a ReLU.
    case = Case(name, passes, rounds=1, tolerance=0.02, compare=gradient_difference)
    return replace(case, measure=peak_memory(flags_of(flags).device))


def _backward(
    model: nn.Module, criterion: Any, flags: str, size_hw: tuple[int, int], batch_size: int
) -> Callable[[], list[torch.Tensor]]:
    """A forward and backward pass that returns the gradients of all trained parameters."""
    device, dtype = flags_of(flags).device, next(model.parameters()).dtype
    batch = images([size_hw] * batch_size, device)
    batch.tensors = batch.tensors.to(dtype)
    objects = [
        {name: value.to(dtype) if value.is_floating_point() else value for name, value in t.items()}
        for t in targets(batch_size, device=device)
    ]

    return gradients_of(model, criterion, batch, objects)


def variants(
    flags: str, sizes_hw: list[tuple[int, int]], batch_size: int
) -> dict[str, Callable[[], dict[str, float]]]:
    """Training steps that return the unweighted losses; every call continues the training.

    Args:
        flags: of main.py.
        sizes_hw: height and width of all images of each batch.
    """
    device = flags_of(flags).device
    batches = [
        (images([size] * batch_size, device), targets(batch_size, device=device))
        for size in sizes_hw
    ]
    return {
        "original": partial(original_trainer(flags), batches),
        "float32": partial(trainer(flags, "off"), batches),
        "bf16": partial(trainer(flags, "bf16"), batches),
    }


Train = Callable[[list[Any]], dict[str, float]]


def original_trainer(flags: str) -> Train:
    """A function that runs the original's steps; returns the unweighted losses of the last one."""
    model, criterion = build(flags)
    original: Any = original_of(model.train())
    optimizer, device = build_optimizer(original), flags_of(flags).device

    def train(batches: list[Any]) -> dict[str, float]:
        """Take one step per batch; return the unscaled losses."""
        losses: dict[str, float] = {}
        for samples, objects in batches:
            on_device = [{name: v.to(device) for name, v in t.items()} for t in objects]
            weight = criterion.empty_weight
            losses = training_step(original, optimizer, samples.to(device), on_device, weight)
        return losses

    return train


def trainer(flags: str, amp: str) -> Train:
    """A function that runs `engine.train_one_epoch`; returns the unweighted losses."""
    model, criterion = build(flags)
    prepare_for_training(model, amp)
    optimizer = optimizers.build_optimizer(model, 1e-4, 1e-5, 1e-4)
    device = torch.device(flags_of(flags).device)
    scaler = torch.amp.GradScaler(device.type) if amp == "fp16" else None

    def train(batches: list[Any]) -> dict[str, float]:
        """Take one step per batch; return the unscaled losses."""
        with contextlib.redirect_stdout(io.StringIO()):
            log = train_one_epoch(
                *(model, criterion, batches, optimizer, device, 0, 0.1, amp), scaler=scaler
            )
        suffix = "_unscaled"
        return {k.removesuffix(suffix): v for k, v in log.items() if k.endswith(suffix)}

    return train
