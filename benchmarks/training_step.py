"""A training step: forward pass, losses, backward pass, clipping, update.

The original's is in float32. The step of this project is `engine.train_one_epoch` with one batch.
"""

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.inputs import R50, TINY, build, flags_of, images, targets
from benchmarks.original.detector import build_optimizer, original_of, training_step
from engine import train_one_epoch
from training.network import prepare_for_training
from util import optimizer as optimizers

TITLE = "Training step"


def cases(settings: Settings) -> Iterator[Case]:
    """Batches of one size."""
    size, batch_size = ((64, 96), 2) if settings.quick else ((608, 800), 2)
    flags = f"{TINY if settings.quick else R50} --dropout 0 --device {settings.device}"
    yield Case(
        f"{batch_size} x 3 x {size[0]} x {size[1]}",
        variants(flags, size, batch_size),
        rounds=5,
        tolerance={"float32": 1e-3, "bf16": 0.1},
    )


def variants(
    flags: str, size_hw: tuple[int, int], batch_size: int
) -> dict[str, Callable[[], dict[str, float]]]:
    """Training steps that return the unweighted losses; every call continues the training.

    Args:
        flags: of main.py.
        size_hw: height and width of all images.
        batch_size: number of images.
    """
    device = flags_of(flags).device
    batch = images([size_hw] * batch_size, device), targets(batch_size, device=device)
    model, criterion = build(flags)
    original: Any = original_of(model.train())
    optimizer = build_optimizer(original)
    empty_weight = criterion.empty_weight
    return {
        "original": lambda: training_step(original, optimizer, *batch, empty_weight),
        "float32": step_of_engine(flags, "off", batch),
        "bf16": step_of_engine(flags, "bf16", batch),
    }


def step_of_engine(flags: str, amp: str, batch: Any) -> Callable[[], dict[str, float]]:
    """`engine.train_one_epoch` with one batch; returns the unweighted losses."""
    model, criterion = build(flags)
    prepare_for_training(model, amp)
    optimizer = optimizers.build_optimizer(model, 1e-4, 1e-5, 1e-4)
    device = torch.device(flags_of(flags).device)

    def step() -> dict[str, float]:
        with contextlib.redirect_stdout(io.StringIO()):
            log = train_one_epoch(model, criterion, [batch], optimizer, device, 0, 0.1, amp)
        suffix = "_unscaled"
        return {k.removesuffix(suffix): v for k, v in log.items() if k.endswith(suffix)}

    return step
