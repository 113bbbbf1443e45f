"""The module that is exported: a DETR with tensors as inputs and named tensors as outputs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from models.postprocess import class_scores
from models.segmentation import DETRsegm
from util.box_ops import box_cxcywh_to_xyxy
from util.nested_tensor import NestedTensor

SizeHW = tuple[int, int]
Example = tuple[Tensor, ...]  # the inputs, by default images and padding mask
INPUTS = ("images", "padding_mask")
SMALLEST_SIDE = 33  # gives a feature map of 2 x 2: torch.export treats a size of 1 as a constant


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a module that can be exported.

    Attributes:
        inputs: names of the inputs, in order.
        outputs: names of the outputs, in order.
        dynamic_shapes: dynamic dimensions of each input, for `torch.export`.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic_shapes: dict[str, dict[int, Any]]


class Exportable(Protocol):
    """A module in evaluation mode that can be exported."""

    __call__: Callable[..., dict[str, Tensor]]

    def signature(self) -> Signature:
        """Names and dynamic dimensions of its inputs and outputs."""

    def inputs_of(self, images: Tensor, padding_mask: Tensor) -> Example:
        """Its inputs for a batch of `ExportWrapper.forward`."""


class ExportWrapper(nn.Module):
    """A DETR that takes images and padding mask as tensors and returns detections by name.

    Args:
        model: a `models.detr.DETR` or `models.segmentation.DETRsegm` without auxiliary outputs.
        raw: return the outputs of the model instead of detections.
        largest_side: maximum height and width of images in pixels.
        fixed_hw: the only height and width of batches; None: any.
    """

    def __init__(
        self,
        model: nn.Module,
        raw: bool = False,
        largest_side: float = math.inf,
        fixed_hw: SizeHW | None = None,
    ):
        super().__init__()
        self.model = model
        self.cls_loss = str(getattr(model, "cls_loss", "ce"))
        self.raw = raw
        self.largest_side = largest_side
        self.fixed_hw = fixed_hw

    def forward(self, images: Tensor, padding_mask: Tensor) -> dict[str, Tensor]:
        """Detect objects.

        Args:
            images: (B, 3, H, W) float32, RGB, normalized with the model's mean and standard
                deviation, zeros in the padding at the right and the bottom.
            padding_mask: (B, H, W) bool, True = padding.

        Returns:
            ``scores`` (B, Q) in [0, 1] and ``labels`` (B, Q) int64 of the most probable class
            other than "no object", ``boxes`` (B, Q, 4) xyxy relative to the image without padding
            (coordinates may lie slightly outside of [0, 1]). With ``raw``: ``pred_logits`` and
            ``pred_boxes`` of `models.detr.DETR`. Segmentation models add ``pred_masks``, mask
            logits (B, Q, H / 4, W / 4) of the padded image.
        """
        outputs: dict[str, Tensor] = self.model(NestedTensor(images, padding_mask))
        return outputs if self.raw else detections_of(outputs, self.cls_loss)

    def signature(self) -> Signature:
        """Names and dynamic dimensions of the inputs and outputs."""
        shapes = dynamic_shapes(self.largest_side, self.fixed_hw)
        return Signature(INPUTS, tuple(output_names(self)), shapes)

    def inputs_of(self, images: Tensor, padding_mask: Tensor) -> Example:
        """Return the arguments: images and padding mask."""
        return images, padding_mask

    def outputs_of(self, images: Tensor, padding_mask: Tensor) -> dict[str, Tensor]:
        """The outputs of the model, as with ``raw``."""
        outputs: dict[str, Tensor] = self.model(NestedTensor(images, padding_mask))
        return outputs


class MinimalWrapper(ExportWrapper):
    """The same for a `models.demo.MinimalDETR`, which takes no padding mask."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Detect objects; see `ExportWrapper.forward`."""
        outputs: dict[str, Tensor] = self.model(images)
        return outputs if self.raw else detections_of(outputs)

    def signature(self) -> Signature:
        """Names and dynamic dimensions of the inputs and outputs."""
        shapes = dynamic_shapes(self.largest_side, self.fixed_hw)
        return Signature(INPUTS[:1], tuple(output_names(self)), {"images": shapes["images"]})

    def inputs_of(self, images: Tensor, padding_mask: Tensor) -> Example:
        """The inputs for a batch: the images."""
        return (images,)

    def outputs_of(self, images: Tensor, padding_mask: Tensor) -> dict[str, Tensor]:
        """The outputs of the model, as with ``raw``."""
        outputs: dict[str, Tensor] = self.model(images)
        return outputs


def detections_of(outputs: dict[str, Tensor], cls_loss: str = "ce") -> dict[str, Tensor]:
    """Convert the outputs of a DETR to detections, see `ExportWrapper.forward`."""
    scores, labels = class_scores(outputs["pred_logits"], cls_loss).max(-1)
    boxes_xyxy = box_cxcywh_to_xyxy(outputs["pred_boxes"])
    detections = {"scores": scores, "labels": labels, "boxes": boxes_xyxy}
    if "pred_masks" in outputs:
        detections["pred_masks"] = outputs["pred_masks"]
    return detections


def output_names(wrapper: ExportWrapper) -> list[str]:
    """Names of the outputs, in order."""
    names = ["pred_logits", "pred_boxes"] if wrapper.raw else ["scores", "labels", "boxes"]
    return names + (["pred_masks"] if isinstance(wrapper.model, DETRsegm) else [])


def dynamic_shapes(
    largest_side: float, fixed_hw: SizeHW | None = None
) -> dict[str, dict[int, torch.export.Dim]]:
    """Dynamic batch size, height and width of the inputs, for `torch.export`.

    Args:
        largest_side: maximum height and width in pixels; may be infinite.
        fixed_hw: the only height and width; then the batch size alone is dynamic.
    """
    batch = torch.export.Dim("batch")
    if fixed_hw is not None:
        return {"images": {0: batch}, "padding_mask": {0: batch}}
    largest = None if largest_side == math.inf else int(largest_side)
    height, width = (
        torch.export.Dim(name, min=SMALLEST_SIDE, max=largest) for name in ("height", "width")
    )
    return {
        "images": {0: batch, 2: height, 3: width},
        "padding_mask": {0: batch, 1: height, 2: width},
    }
