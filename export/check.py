"""Compare the outputs of an exported model with PyTorch."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from export.wrapper import ExportWrapper, SizeHW, detections_of
from models.postprocess import class_scores
from util.box_ops import box_cxcywh_to_xyxy

# Maps the inputs, by default images and padding mask, to outputs by name.
Exported = Callable[..., dict[str, Tensor]]
MaskedBatch = tuple[Tensor, Tensor]  # images and padding mask

SIZES_HW: tuple[SizeHW, ...] = ((480, 640), (800, 1066), (1333, 800))
BATCH_SIZES = (1, 3)
TOLERANCE = 1e-3


class CheckFailedError(Exception):
    """The outputs of the exported model differ from PyTorch."""


class Differences(NamedTuple):
    """Largest absolute differences; NaN if an output has NaN.

    Attributes:
        scores: difference of class probabilities; for a wrong label, difference of its probability
            from the probability of the best class.
        boxes: difference of relative coordinates.
        masks: difference of mask probabilities; None without masks.
    """

    scores: float
    boxes: float
    masks: float | None

    def largest(self) -> float:
        """The maximum of all differences; NaN if any is NaN."""
        values = [value for value in self if value is not None]
        return math.nan if any(map(math.isnan, values)) else max(values)

    def __str__(self) -> str:
        masks = "" if self.masks is None else f", masks {self.masks:.1e}"
        return f"scores {self.scores:.1e}, boxes {self.boxes:.1e}{masks}"


def check(
    module: Any,
    exported: Exported,
    batches: Iterable[MaskedBatch],
    tolerance: float,
    compare_batch: Callable[..., Differences] | None = None,
) -> Differences:
    """Compare for all batches, and print a line for each.

    Args:
        module: the PyTorch module, in evaluation mode.
        batches: images and padding masks, as `ExportWrapper.forward` takes them.
        tolerance: maximum allowed difference.
        compare_batch: compares one batch; None: `compare`, for an `ExportWrapper`.

    Returns:
        The largest differences.

    Raises:
        CheckFailedError: a difference exceeds the tolerance, or an output is missing or has the
            wrong shape.
    """
    found = []
    for images, padding_mask in batches:
        differences = (compare_batch or compare)(module, exported, images, padding_mask)
        found.append(differences)
        batch_size, _, height, width = images.shape
        print(f"  {height}x{width}, batch {batch_size}: {differences}", flush=True)
        if not differences.largest() <= tolerance:  # also fails for NaN
            raise CheckFailedError(
                f"differs from PyTorch at {height}x{width}, batch {batch_size} by more than "
                f"{tolerance:g}: {differences}"
            )
    return _largest_of(found)


def _largest_of(found: Sequence[Differences]) -> Differences:
    masks = [differences.masks for differences in found if differences.masks is not None]
    return Differences(
        scores=max(differences.scores for differences in found),
        boxes=max(differences.boxes for differences in found),
        masks=max(masks, default=None),
    )


def padded_batches(sizes_hw: Sequence[SizeHW], batch_sizes: Sequence[int]) -> Iterator[MaskedBatch]:
    """Random images (B, 3, H, W) with padding masks (B, H, W), from a fixed seed.

    Even images have padding at the right, odd images at the bottom.
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
    wrapper: ExportWrapper, exported: Exported, images: Tensor, padding_mask: Tensor
) -> Differences:
    """Largest differences for one batch.

    Raises:
        CheckFailedError: an output is missing or has the wrong shape.
    """
    outputs = wrapper.outputs_of(images, padding_mask)
    found = exported(*wrapper.inputs_of(images, padding_mask))
    cls_loss = wrapper.cls_loss
    _check_shapes(outputs if wrapper.raw else detections_of(outputs, cls_loss), found)
    if wrapper.raw:
        scores = distance(
            *(class_scores(part["pred_logits"], cls_loss) for part in (outputs, found))
        )
        boxes = distance(outputs["pred_boxes"], found["pred_boxes"])
    else:
        scores, boxes = _differences_of_detections(outputs, found, cls_loss)
    masks = None
    if "pred_masks" in outputs:
        masks = distance(outputs["pred_masks"].sigmoid(), found["pred_masks"].sigmoid())
    return Differences(scores, boxes, masks)


def _check_shapes(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name, value in expected.items():
        shape = tuple(found[name].shape) if name in found else "missing"
        if shape != tuple(value.shape):
            raise CheckFailedError(f"output {name} is {shape}, not {tuple(value.shape)}")


def _differences_of_detections(
    outputs: Mapping[str, Tensor], found: Mapping[str, Tensor], cls_loss: str
) -> tuple[float, float]:
    """Largest differences of scores and of boxes."""
    probabilities = class_scores(outputs["pred_logits"], cls_loss)
    best = probabilities.amax(-1)
    of_label = probabilities.gather(-1, found["labels"][..., None]).squeeze(-1)
    boxes_xyxy = box_cxcywh_to_xyxy(outputs["pred_boxes"])
    expected = torch.stack((best, best))
    scores = distance(expected, torch.stack((found["scores"], of_label)))
    return scores, distance(boxes_xyxy, found["boxes"])


def distance(expected: Tensor, found: Tensor) -> float:
    """Largest absolute difference; NaN if either side has NaN."""
    return float((expected - found).abs().amax())
