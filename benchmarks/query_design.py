"""A training step of the learned queries, and of anchor queries with their losses and denoising.

The step is `engine.train_one_epoch` with one batch. The designs have different losses, so that
results are not compared.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.inputs import R50, TINY, images, targets
from benchmarks.training_step import trainer
from util.system.precision import choose_precision

TITLE = "Training step by query design"
_DESIGNS = {
    "learned": "",
    "anchor": "--query_design anchor",
    "anchor, focal": "--query_design anchor --cls_loss focal",
    "anchor, focal, IoU targets": "--query_design anchor --cls_loss focal --iou_targets",
    "and denoising": "--query_design anchor --cls_loss focal --iou_targets --denoising 5",
}
# configs/shapes.txt
_SHAPES = (
    "--backbone resnet18 --backbone_norm batch --pre_norm --hidden_dim 128 --dim_feedforward 512 "
    "--enc_layers 1 --dec_layers 3 --num_queries 15 --lr_backbone 1e-4"
)


def cases(settings: Settings) -> Iterator[Case]:
    """The recipe of shapes.txt, and ResNet-50."""
    if settings.quick:
        yield _case("tiny", TINY, (64, 96), 2, "off", settings.device)
        return
    amp = choose_precision("auto", torch.device(settings.device)).amp
    name = f"shapes.txt, amp {amp}: 16 x 3 x 100 x 100"
    yield _case(name, _SHAPES, (100, 100), 16, amp, settings.device)
    yield _case("ResNet-50: 2 x 3 x 608 x 800", R50, (608, 800), 2, "off", settings.device)


def _case(
    name: str, flags: str, size_hw: tuple[int, int], batch_size: int, amp: str, device: str
) -> Case:
    batch = images([size_hw] * batch_size, device), targets(batch_size, 4, device=device)
    steps: dict[str, Callable[[], Any]] = {
        design: partial(trainer(f"{flags} --dropout 0 --device {device} {added}", amp), [batch])
        for design, added in _DESIGNS.items()
    }
    return Case(name, steps, rounds=5, tolerance=math.inf, compare=lambda *results: 0.0)
