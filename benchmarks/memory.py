"""Peak memory of training and inference, with masks and without, in addition to the weights.

In bf16 the weights stay in float32. The original decodes the masks of all queries at once
(`benchmarks.original.masks`).
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.harness.case import Case, Settings, gradient_difference
from benchmarks.harness.inputs import R50, TINY, build, images, targets
from benchmarks.harness.measures import peak_memory
from benchmarks.inference import case as inference
from benchmarks.original.detector import original_of
from engine import predict, weight_losses
from training.network import prepare_for_training

TITLE = "Peak memory"
_TRAINING = {"boxes": "", "masks": "--masks", "masks, frozen": "--masks --frozen_weights made-up"}
_QUICK = {"masks": "--masks"}


def cases(settings: Settings) -> Iterator[Case]:
    """Training of batches of two images, and inference of one image."""
    flags = TINY if settings.quick else R50
    for name, kind in (_QUICK if settings.quick else _TRAINING).items():
        size = (64, 96) if settings.quick else (640, 640)
        yield training(f"training, {name}", f"{flags} {kind}", size, settings.device)
    for name, kind in (("boxes", ""), ("masks", "--masks")):
        size = (64, 96) if settings.quick else (800, 1333)
        case = inference(f"inference, {name}", f"{flags} {kind}", [size], settings.device, 1)
        yield replace(case, measure=peak_memory(settings.device))


def training(
    name: str, flags: str, size_hw: tuple[int, int], device: str, batch_size: int = 2
) -> Case:
    """Forward and backward pass of a batch with eight objects per image."""
    model, criterion = build(f"{flags} --dropout 0 --device {device}")
    original = original_of(model.train())
    batch = images([size_hw] * batch_size, device)
    objects = targets(batch_size, 8, size_hw, device)

    prepared = {amp: copy.deepcopy(model) for amp in ("off", "bf16")}
    for amp, network in prepared.items():
        prepare_for_training(network, amp)

    def step(network: nn.Module, amp: str = "off") -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            network.zero_grad(set_to_none=True)
            losses = criterion(predict(network, batch, torch.device(device), amp), objects)
            weight_losses(losses, criterion.weight_dict, objects)[0].backward()
            named = sorted(network.named_parameters())
            return [parameter.grad for _, parameter in named if parameter.grad is not None]

        return run

    step(original)()  # allocates buffers that persist
    return Case(
        f"{name}, {batch_size} x 3 x {size_hw[0]} x {size_hw[1]}",
        {
            "original": step(original),
            "float32": step(prepared["off"]),
            "bf16": step(prepared["bf16"], "bf16"),
        },
        rounds=1,
        tolerance={"float32": 0.02, "bf16": 0.3},
        compare=gradient_difference,
        measure=peak_memory(device),
    )
