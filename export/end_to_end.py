"""A detector of 8-bit images with boxes in pixels: ``--end_to_end`` of the exporters."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from datasets.loading.byte_images import IMAGENET, Normalization
from export.check import Differences, Exported, distance
from export.wrapper import Example, ExportWrapper, Signature
from models.postprocess import class_scores
from util.box_ops import box_cxcywh_to_xyxy

INPUTS = ("images", "sizes_hw", "original_sizes_hw")
NO_LABEL = -1
_NEAR = 1e-3


class EndToEnd(nn.Module):
    """Normalization, a DETR, and the best detections in pixels.

    Args:
        wrapper: a DETR that returns detections (not ``raw``).
        top_k: number of detections per image, at most the number of queries.
        threshold: detections with a lower score are removed.
        normalization: mean and standard deviation of the images.
    """

    mean: Tensor  # (3, 1, 1)
    std: Tensor  # (3, 1, 1)

    def __init__(
        self,
        wrapper: ExportWrapper,
        top_k: int,
        threshold: float,
        normalization: Normalization = IMAGENET,
    ):
        super().__init__()
        self.wrapper = wrapper
        self.top_k = top_k
        self.threshold = threshold
        for name, values in zip(("mean", "std"), normalization, strict=True):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(
        self, images: Tensor, sizes_hw: Tensor, original_sizes_hw: Tensor
    ) -> dict[str, Tensor]:
        """Detect objects.

        Args:
            images: (B, 3, H, W) uint8, RGB, with any values in the padding at the right and the
                bottom.
            sizes_hw: (B, 2) int64, height and width of each image without padding.
            original_sizes_hw: (B, 2) int64, height and width that the boxes refer to, such as the
                size of the image before it was scaled.

        Returns:
            ``num_detections`` (B,) int64, and by descending score ``scores`` (B, K), ``labels``
            (B, K) int64, ``boxes`` (B, K, 4) xyxy in pixels, within the image, and ``queries``
            (B, K) int64. From position ``num_detections`` on, scores and boxes are 0 and labels
            -1. Segmentation models add ``pred_masks`` (B, K, H / 4, W / 4), mask logits.
        """
        found = self.wrapper(*self.normalized(images, sizes_hw))
        scores, queries = found["scores"].topk(self.top_k, dim=1)
        is_kept = scores >= self.threshold
        boxes = found["boxes"].gather(1, queries[:, :, None].expand(-1, -1, 4)).clamp(0, 1)
        height, width = original_sizes_hw[:, 0], original_sizes_hw[:, 1]
        pixels = torch.stack((width, height, width, height), 1).to(boxes.dtype)
        outputs = {
            "num_detections": is_kept.sum(1),
            "scores": scores * is_kept,
            "labels": found["labels"].gather(1, queries).masked_fill(~is_kept, -1),
            "boxes": boxes * pixels[:, None] * is_kept[:, :, None],
            "queries": queries,
        }
        if "pred_masks" in found:
            masks = found["pred_masks"]
            index = queries[:, :, None, None].expand(-1, -1, masks.shape[2], masks.shape[3])
            outputs["pred_masks"] = masks.gather(1, index)
        return outputs

    def normalized(self, images: Tensor, sizes_hw: Tensor) -> tuple[Tensor, Tensor]:
        """Images and padding mask for a DETR, from the inputs of `forward`."""
        rows = torch.arange(images.shape[2], device=images.device)[None, :, None]
        columns = torch.arange(images.shape[3], device=images.device)[None, None, :]
        height, width = sizes_hw[:, 0, None, None], sizes_hw[:, 1, None, None]
        padding_mask = (rows >= height) | (columns >= width)  # (B, H, W)
        normalized = (images.to(torch.float32) / 255 - self.mean) / self.std
        return normalized.masked_fill(padding_mask[:, None], 0.0), padding_mask

    def signature(self) -> Signature:
        """Names and dynamic dimensions of the inputs and outputs."""
        inner = self.wrapper.signature()
        images = inner.dynamic_shapes["images"]
        shapes = {"images": images, **{name: {0: images[0]} for name in INPUTS[1:]}}
        names = ("num_detections", "scores", "labels", "boxes", "queries")
        masks = tuple(name for name in inner.outputs if name == "pred_masks")
        return Signature(INPUTS, names + masks, shapes)

    def inputs_of(self, images: Tensor, padding_mask: Tensor) -> Example:
        """The inputs for a batch of `ExportWrapper.forward`, with original images twice as large.

        Pixels are rounded and limited to 8 bits.
        """
        pixels = ((images * self.std + self.mean) * 255).round().clamp(0, 255).to(torch.uint8)
        valid = ~padding_mask
        sizes_hw = torch.stack((valid.any(2).sum(1), valid.any(1).sum(1)), 1)
        return pixels, sizes_hw, 2 * sizes_hw


@torch.no_grad()
def compare_end_to_end(
    module: EndToEnd, exported: Exported, images: Tensor, padding_mask: Tensor
) -> Differences:
    """Largest differences for one batch, see `export.check.compare`.

    Detections are compared by query, because detections with almost equal scores may swap places.
    """
    pixels, sizes_hw, original_sizes_hw = module.inputs_of(images, padding_mask)
    outputs = module.wrapper.outputs_of(*module.normalized(pixels, sizes_hw))
    found = exported(pixels, sizes_hw, original_sizes_hw)
    probabilities = class_scores(outputs["pred_logits"], module.wrapper.cls_loss)
    scores = _difference_of_scores(module, probabilities, found)
    index = found["queries"][:, :, None].expand(-1, -1, 4)
    boxes = box_cxcywh_to_xyxy(outputs["pred_boxes"]).gather(1, index).clamp(0, 1)
    is_kept = found["labels"] != NO_LABEL
    relative = found["boxes"] / original_sizes_hw.flip(1).repeat(1, 2)[:, None]
    masks = None
    if "pred_masks" in found:
        pairs = zip(outputs["pred_masks"], found["queries"], strict=True)
        of_queries = torch.stack([masks_of_image[queries] for masks_of_image, queries in pairs])
        masks = distance(of_queries.sigmoid(), found["pred_masks"].sigmoid())
    return Differences(scores, distance(boxes * is_kept[:, :, None], relative), masks)


def _difference_of_scores(
    module: EndToEnd, probabilities: Tensor, found: Mapping[str, Tensor]
) -> float:
    """Difference from the best scores, and from the probabilities (B, Q, C) of the labels."""
    scores, labels = found["scores"], found["labels"]
    best = probabilities.amax(-1).sort(1, descending=True).values[:, : module.top_k]
    is_clear = (best - module.threshold).abs() > _NEAR  # near the threshold both are correct
    best = torch.where(is_clear, best * (best >= module.threshold), scores)
    of_query = torch.stack([p[q] for p, q in zip(probabilities, found["queries"], strict=True)])
    of_label = of_query.gather(2, labels.clamp(min=0)[:, :, None]).squeeze(2)
    of_label = torch.where(labels == NO_LABEL, scores, of_label)
    return distance(torch.stack((best, of_label)), scores[None])
