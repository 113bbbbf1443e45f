"""Convert model outputs to detections in the format of COCO evaluation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from util.box_ops import box_cxcywh_to_xyxy
from util.category_ids import OwnId, category_id_of


class PostProcess(nn.Module):
    """Convert class logits and relative boxes to scores, labels and boxes in pixels.

    Args:
        category_ids: category id of each row of the classification head, without no-object, as in a
            checkpoint; None: row numbers are category ids.
        cls_loss: classification loss of the model: ``ce`` or ``focal``.
        one_per_query: with the focal loss, return one detection per query, as for ``ce``.
    """

    category_ids: Tensor | None  # (K - 1,), not in the state dict

    def __init__(
        self,
        category_ids: Sequence[OwnId] | None = None,
        cls_loss: str = "ce",
        one_per_query: bool = False,
    ):
        super().__init__()
        self.cls_loss = cls_loss
        self.one_per_query = one_per_query or cls_loss != "focal"
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
            With the focal loss, unless ``one_per_query`` is set, the Q highest scores of all
            queries and classes, in descending order, and ``queries`` (Q,), the query of each.

        Raises:
            ValueError: the shape of ``target_sizes`` is not (B, 2).
        """
        logits, boxes_cxcywh = outputs["pred_logits"], outputs["pred_boxes"]
        if target_sizes.shape != (len(logits), 2):
            raise ValueError(
                f"target_sizes must have shape ({len(logits)}, 2), one (height, width) per image, "
                f"not {tuple(target_sizes.shape)}"
            )
        scores, labels, queries = self._detections(class_scores(logits, self.cls_loss))
        if self.category_ids is not None:
            labels = self.category_ids.to(labels.device)[labels]
        height, width = target_sizes.unbind(1)
        scale = torch.stack((width, height, width, height), dim=1)
        boxes_xyxy = box_cxcywh_to_xyxy(boxes_cxcywh) * scale[:, None]
        found = {"scores": scores, "labels": labels, "boxes": boxes_xyxy}
        if queries is not None:
            found["boxes"] = boxes_xyxy.take_along_dim(queries[..., None], 1)
            found["queries"] = queries
        names = tuple(found)
        return [dict(zip(names, image, strict=True)) for image in zip(*found.values(), strict=True)]

    def _detections(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Scores, classes and queries, all (B, Q), from scores (B, Q, K - 1).

        Queries are None if detection i belongs to query i.
        """
        if self.one_per_query:
            best, classes = scores.max(-1)
            return best, classes, None
        num_queries, num_classes = scores.shape[1:]
        best, pairs = scores.flatten(1).topk(num_queries)
        return best, pairs % num_classes, torch.div(pairs, num_classes, rounding_mode="floor")


def class_scores(logits: Tensor, cls_loss: str = "ce") -> Tensor:
    """Scores (..., K - 1) of all classes, without no-object, from logits (..., K).

    Args:
        cls_loss: ``ce`` (softmax) or ``focal`` (sigmoid).
    """
    if cls_loss == "focal":
        return logits[..., :-1].sigmoid()
    return logits.softmax(-1)[..., :-1]


def category_id_tensor(category_ids: Sequence[OwnId] | None) -> Tensor | None:
    """Category ids (N,) int64, see `util.category_ids.category_id_of`; None for None."""
    return None if category_ids is None else torch.tensor(list(map(category_id_of, category_ids)))
