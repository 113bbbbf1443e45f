"""Peak memory of training and inference, with masks and without, in addition to the weights.

In bf16 the weights stay in float32. The original decodes the masks of all queries at once
(`benchmarks.original.detector`).
"""

import copy
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.harness.case import Case, Settings, gradient_difference
from benchmarks.harness.inputs import R50, TINY, build, gradients_of, images, targets
from benchmarks.harness.measures import peak_memory
from benchmarks.inference import case as inference
from benchmarks.original.detector import original_of
from training.network import prepare_for_training

TITLE = "Peak memory"
_TRAINING = {"boxes": "", "masks": "--masks", "masks, frozen": "--masks --frozen_weights made-up"}
_BATCH_SIZE = 2
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


def training(name: str, flags: str, size_hw: tuple[int, int], device: str) -> Case:
    """Forward and backward pass of a batch with eight objects per image."""
    model, criterion = build(f"{flags} --dropout 0 --device {device}")
    original = original_of(model.train())
    batch = images([size_hw] * _BATCH_SIZE, device)
    objects = targets(_BATCH_SIZE, 8, size_hw, device)

    prepared = {amp: copy.deepcopy(model) for amp in ("off", "bf16")}
    for amp, network in prepared.items():
        prepare_for_training(network, amp)

    originals = gradients_of(original, criterion, batch, objects)
    originals()  # allocates buffers that persist
    return Case(
        f"{name}, {_BATCH_SIZE} x 3 x {size_hw[0]} x {size_hw[1]}",
        {
            "original": originals,
            "float32": gradients_of(prepared["off"], criterion, batch, objects),
            "bf16": gradients_of(prepared["bf16"], criterion, batch, objects, "bf16"),
        },
        rounds=1,
        tolerance={"float32": 0.02, "bf16": 0.3},
        compare=gradient_difference,
        measure=peak_memory(device),
    )
