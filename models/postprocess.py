"""Convert model outputs to detections in the format of COCO evaluation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from util.box_ops import box_cxcywh_to_xyxy
from util.category_ids import OwnId, category_id_of


class PostProcess(nn.Module):
    """Convert class logits and relative boxes to scores, labels and boxes in pixels.

    Args:
        category_ids: category id of each row of the class head, without no-object, as in a
            checkpoint; None: row numbers are category ids.
    """

    category_ids: Tensor | None  # (K - 1,), not in the state dict

    def __init__(self, category_ids: Sequence[OwnId] | None = None):
        super().__init__()
        self.register_buffer("category_ids", category_id_tensor(category_ids), persistent=False)

    @torch.no_grad()
    def forward(self, outputs: dict[str, Tensor], target_sizes: Tensor) -> list[dict[str, Tensor]]:
        """Convert the predictions of a batch.

        Args:
            outputs: ``pred_logits`` (B, Q, K) and ``pred_boxes`` (B, Q, 4) cxcywh in [0, 1].
            target_sizes: (B, 2) height and width in pixels that the boxes refer to: the original
                image for evaluation, the network input without padding for visualization.

        Returns:
            for each image ``scores`` (Q,) in [0, 1], ``labels`` (Q,), category ids, and ``boxes``
            (Q, 4) xyxy in pixels: for every query the most probable class other than no-object.

        Raises:
            ValueError: the shape of ``target_sizes`` is not (B, 2).
        """
        logits, boxes_cxcywh = outputs["pred_logits"], outputs["pred_boxes"]
        if target_sizes.shape != (len(logits), 2):
            raise ValueError(
                f"target_sizes must have shape ({len(logits)}, 2), one (height, width) per image, "
                f"not {tuple(target_sizes.shape)}"
            )
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        if self.category_ids is not None:
            labels = self.category_ids.to(labels.device)[labels]
        height, width = target_sizes.unbind(1)
        scale = torch.stack((width, height, width, height), dim=1)
        boxes_xyxy = box_cxcywh_to_xyxy(boxes_cxcywh) * scale[:, None]
        return [
            {"scores": image_scores, "labels": image_labels, "boxes": image_boxes}
            for image_scores, image_labels, image_boxes in zip(
                scores, labels, boxes_xyxy, strict=True
            )
        ]


def category_id_tensor(category_ids: Sequence[OwnId] | None) -> Tensor | None:
    """Category ids (N,) int64, see `util.category_ids.category_id_of`; None for None."""
    return None if category_ids is None else torch.tensor(list(map(category_id_of, category_ids)))
