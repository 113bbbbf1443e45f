"""Comparing an exported model with the one that it was made from."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from export.detector import Detector, detections_of
from util.box_ops import box_cxcywh_to_xyxy
from util.nested_tensor import NestedTensor

# Takes images and padding mask, gives outputs by name.
Exported = Callable[[Tensor, Tensor], dict[str, Tensor]]
SizeHW = tuple[int, int]

SIZES_HW: tuple[SizeHW, ...] = ((480, 640), (800, 1066), (1333, 800))
BATCH_SIZES = (1, 3)
TOLERANCE = 1e-3


class CheckFailedError(Exception):
    """The exported model computes something else."""


class Differences(NamedTuple):
    """Largest absolute differences; NaN where one side has NaN.

    Attributes:
        scores: of probabilities. A label that differs counts as the difference between the
            probability of the best class and its own.
        boxes: of relative coordinates.
        masks: of the probability that a pixel is inside; None without masks.
    """

    scores: float
    boxes: float
    masks: float | None

    def largest(self) -> float:
        """The largest of all; NaN where there is one."""
        values = [value for value in self if value is not None]
        return math.nan if any(map(math.isnan, values)) else max(values)

    def __str__(self) -> str:
        masks = "" if self.masks is None else f", masks {self.masks:.1e}"
        return f"scores {self.scores:.1e}, boxes {self.boxes:.1e}{masks}"


def check(
    detector: Detector,
    exported: Exported,
    sizes_hw: Sequence[SizeHW],
    batch_sizes: Sequence[int],
    tolerance: float,
) -> Differences:
    """Compare at all sizes with all batch sizes, and print a line for each.

    Args:
        detector: the model, in evaluation mode.
        exported: what was made of it.
        sizes_hw: heights and widths of the padded batches.
        batch_sizes: numbers of images.
        tolerance: largest difference that passes.

    Returns:
        the largest differences.

    Raises:
        CheckFailedError: one is above the tolerance, or an output is missing or has another shape.
    """
    found = []
    for images, padding_mask in padded_batches(sizes_hw, batch_sizes):
        differences = compare(detector, exported, images, padding_mask)
        found.append(differences)
        batch_size, _, height, width = images.shape
        print(f"  {height}x{width}, batch {batch_size}: {differences}", flush=True)
        if not differences.largest() <= tolerance:  # NaN is above
            raise CheckFailedError(
                f"differs from PyTorch at {height}x{width}, batch {batch_size} by more than "
                f"{tolerance:g}: {differences}"
            )
    return _largest_of(found)


def _largest_of(found: Sequence[Differences]) -> Differences:
    masks = [one.masks for one in found if one.masks is not None]
    return Differences(
        scores=max(one.scores for one in found),
        boxes=max(one.boxes for one in found),
        masks=max(masks, default=None),
    )


def padded_batches(
    sizes_hw: Sequence[SizeHW], batch_sizes: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Noise images (B, 3, H, W) with padding masks (B, H, W), the same every time.

    Each image fills the batch in one direction at most: there is padding at the right of the first,
    at the bottom of the second, and so on.
    """
    generator = torch.Generator().manual_seed(0)
    for height, width in sizes_hw:
        for batch_size in batch_sizes:
            images = torch.randn(batch_size, 3, height, width, generator=generator)
            padding_mask = torch.ones(batch_size, height, width, dtype=torch.bool)
            for i in range(batch_size):
                bottom = height if i % 2 == 0 else height * 3 // 4
                right = width if i % 2 == 1 else width * (5 + i % 3) // 8
                padding_mask[i, :bottom, :right] = False
            yield images.masked_fill(padding_mask[:, None], 0), padding_mask


@torch.no_grad()
def compare(
    detector: Detector, exported: Exported, images: Tensor, padding_mask: Tensor
) -> Differences:
    """Differences on one batch.

    Raises:
        CheckFailedError: an output is missing or has another shape.
    """
    outputs = detector.model(NestedTensor(images, padding_mask))
    found = exported(images, padding_mask)
    _check_shapes(outputs if detector.raw else detections_of(outputs), found)
    if detector.raw:
        scores = _distance(outputs["pred_logits"].softmax(-1), found["pred_logits"].softmax(-1))
        boxes = _distance(outputs["pred_boxes"], found["pred_boxes"])
    else:
        scores, boxes = _differences_of_detections(outputs, found)
    masks = None
    if "pred_masks" in outputs:
        masks = _distance(outputs["pred_masks"].sigmoid(), found["pred_masks"].sigmoid())
    return Differences(scores, boxes, masks)


def _check_shapes(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name, value in expected.items():
        shape = tuple(found[name].shape) if name in found else "missing"
        if shape != tuple(value.shape):
            raise CheckFailedError(f"output {name} is {shape}, not {tuple(value.shape)}")


def _differences_of_detections(
    outputs: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> tuple[float, float]:
    """Largest difference of scores and of boxes."""
    probabilities = outputs["pred_logits"].softmax(-1)[..., :-1]
    best = probabilities.amax(-1)
    of_label = probabilities.gather(-1, found["labels"][..., None]).squeeze(-1)
    boxes_xyxy = box_cxcywh_to_xyxy(outputs["pred_boxes"])
    expected = torch.stack((best, best))
    scores = _distance(expected, torch.stack((found["scores"], of_label)))
    return scores, _distance(boxes_xyxy, found["boxes"])


def _distance(expected: Tensor, found: Tensor) -> float:
    return float((expected - found).abs().amax())  # NaN on either side gives NaN
