"""From network outputs to detections in the format that COCO evaluation reads."""

import torch
from torch import Tensor, nn

from util.box_ops import box_cxcywh_to_xyxy


class PostProcess(nn.Module):
    """Turn class logits and relative boxes into scores, labels and boxes in pixels."""

    @torch.no_grad()
    def forward(self, outputs: dict[str, Tensor], target_sizes: Tensor) -> list[dict[str, Tensor]]:
        """Convert the predictions of a batch.

        Args:
            outputs: ``pred_logits`` (B, Q, K) and ``pred_boxes`` (B, Q, 4) cxcywh, relative.
            target_sizes: (B, 2) height and width in pixels to express boxes in: the size of the
                original image for evaluation, the size before padding for pictures.

        Returns:
            for each image ``scores`` (Q,) in [0, 1], ``labels`` (Q,) and ``boxes`` (Q, 4) xyxy in
            pixels: every query with its most probable class other than "no object".

        Raises:
            ValueError: ``target_sizes`` does not hold one (height, width) for each image.
        """
        logits, boxes_cxcywh = outputs["pred_logits"], outputs["pred_boxes"]
        if target_sizes.shape != (len(logits), 2):
            raise ValueError(
                f"target_sizes must have shape ({len(logits)}, 2), one (height, width) an image, "
                f"not {tuple(target_sizes.shape)}"
            )
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        height, width = target_sizes.unbind(1)
        scale = torch.stack((width, height, width, height), dim=1)
        boxes_xyxy = box_cxcywh_to_xyxy(boxes_cxcywh) * scale[:, None]
        return [
            {"scores": image_scores, "labels": image_labels, "boxes": image_boxes}
            for image_scores, image_labels, image_boxes in zip(
                scores, labels, boxes_xyxy, strict=True
            )
        ]
