"""Lower the scores of queries that overlap a higher-scoring query of their class."""

import torch
from torch import Tensor

from util.box_ops import box_cxcywh_to_xyxy, elementwise_box_iou


def overlap_with_higher_scoring(logits: Tensor, boxes_cxcywh: Tensor) -> Tensor:
    """Largest IoU of each query with a higher-scoring query of the same class in the same image.

    The class of a query is the one with its highest score.

    Args:
        logits: (..., Q, K); the last row, the no-object class, is not read.
        boxes_cxcywh: (..., Q, 4).

    Returns:
        (..., Q) in [0, 1]; 0 if there is no such query.
    """
    boxes = box_cxcywh_to_xyxy(boxes_cxcywh)
    iou = elementwise_box_iou(boxes[..., :, None, :], boxes[..., None, :, :])
    best_logit, label = logits[..., :-1].max(-1)
    is_same = label[..., :, None] == label[..., None, :]
    is_better = best_logit[..., None, :] > best_logit[..., :, None]
    return (iou * (is_same & is_better)).amax(-1)


def penalize_overlap(logits: Tensor, boxes_cxcywh: Tensor, penalty: float) -> Tensor:
    """Subtract ``penalty * overlap_with_higher_scoring(...) ** 2`` from all logits of a query.

    No gradient flows through the overlap.

    Args: see `overlap_with_higher_scoring`.

    Returns:
        logits (..., Q, K).
    """
    with torch.no_grad():
        overlap = overlap_with_higher_scoring(logits, boxes_cxcywh)
    return logits - penalty * overlap[..., None] ** 2
