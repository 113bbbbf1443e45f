"""Boxes: format conversions, intersection over union (IoU), generalized IoU, boxes of masks.

Names end in the format: ``cxcywh`` is (center x, center y, width, height), ``xyxy`` is (left, top,
right, bottom).
"""

import torch
from torch import Tensor


def box_cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Convert boxes (..., 4) from (cx, cy, w, h) to (x0, y0, x1, y1), in the same units."""
    center, half_size = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat((center - half_size, center + half_size), dim=-1)


def box_xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Convert boxes (..., 4) from (x0, y0, x1, y1) to (cx, cy, w, h), in the same units."""
    top_left, bottom_right = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat(((top_left + bottom_right) / 2, bottom_right - top_left), dim=-1)


def _intersection_union(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Areas of intersection and union, and the signed overlap along x and y, of xyxy boxes.

    For separate boxes the signed overlap is minus the gap between them.
    """
    left1, top1, right1, bottom1 = boxes1.unbind(-1)
    left2, top2, right2, bottom2 = boxes2.unbind(-1)
    overlap_x = torch.minimum(right1, right2) - torch.maximum(left1, left2)
    overlap_y = torch.minimum(bottom1, bottom2) - torch.maximum(top1, top2)
    intersection = overlap_x.clamp(min=0) * overlap_y.clamp(min=0)
    area1 = (right1 - left1) * (bottom1 - top1)
    area2 = (right2 - left2) * (bottom2 - top2)
    return intersection, area1 + area2 - intersection, overlap_x, overlap_y


def _ratio(area: Tensor, whole: Tensor, smallest: float = 1e-12) -> Tensor:
    """Ratio of two areas; gradients are finite, as ``smallest`` squared does not underflow."""
    return area / whole.clamp(min=smallest)


def box_iou(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Pairwise intersection over union of two sets of boxes.

    Args:
        boxes1: (N, 4) xyxy.
        boxes2: (M, 4) xyxy.

    Returns:
        IoU (N, M) in [0, 1], 0 if neither box has an area; and the area of the union (N, M).
    """
    intersection, union, _, _ = _intersection_union(boxes1[:, None], boxes2[None])
    return _ratio(intersection, union), union


def elementwise_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Elementwise intersection over union; 0 for boxes without area.

    Args:
        boxes1: (..., 4) xyxy.
        boxes2: (..., 4) xyxy, broadcast against ``boxes1``.

    Returns:
        (...) in [0, 1].
    """
    intersection, union, _, _ = _intersection_union(boxes1, boxes2)
    return _ratio(intersection, union)


def elementwise_generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Elementwise generalized IoU; finite even for boxes without area.

    Args:
        boxes1: (..., 4) xyxy.
        boxes2: (..., 4) xyxy, broadcast against ``boxes1``.

    Returns:
        GIoU (...) in [-1, 1]: the IoU minus the fraction of the smallest enclosing box that is
        outside the union.

    Source: Rezatofighi et al., Generalized Intersection over Union, CVPR 2019.
    """
    intersection, union, overlap_x, overlap_y = _intersection_union(boxes1, boxes2)
    # max(a, b) = a + b - min(a, b): the enclosing box follows from the overlap.
    size1, size2 = boxes1[..., 2:] - boxes1[..., :2], boxes2[..., 2:] - boxes2[..., :2]
    enclosing_width = size1[..., 0] + size2[..., 0] - overlap_x
    enclosing_height = size1[..., 1] + size2[..., 1] - overlap_y
    enclosing = enclosing_width * enclosing_height
    iou = _ratio(intersection, union)
    return iou - _ratio(enclosing - union, enclosing)


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Pairwise generalized IoU of two sets of boxes.

    Checks its input, which synchronizes with the device, unlike `elementwise_generalized_box_iou`.

    Args:
        boxes1: (N, 4) xyxy.
        boxes2: (M, 4) xyxy.

    Returns:
        (N, M) in [-1, 1].

    Raises:
        ValueError: if a box has x1 < x0 or y1 < y0, or contains NaN.
    """
    for name, boxes in (("boxes1", boxes1), ("boxes2", boxes2)):
        in_order = (boxes[:, 2:] >= boxes[:, :2]).all(dim=1)
        if not bool(in_order.all()):
            row = int((~in_order).nonzero()[0])
            raise ValueError(
                f"{name}[{row}] = {boxes[row].tolist()} is not an xyxy box (x1 >= x0 and y1 >= y0)"
            )
    return elementwise_generalized_box_iou(boxes1[:, None], boxes2[None])


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Tight boxes around masks; right and bottom edges are the indices of the last pixels inside.

    Args:
        masks: (N, H, W) of any dtype, non-zero inside.

    Returns:
        (N, 4) float32 xyxy; zeros for a mask without pixels.
    """
    if masks.numel() == 0:
        return torch.zeros((masks.shape[0], 4), device=masks.device)
    values = masks if masks.dtype in (torch.bool, torch.uint8) else masks != 0
    # On the CPU ``amax`` of bytes is many times faster than ``any``.
    left, right = _first_and_last(values.amax(dim=1) != 0)
    top, bottom = _first_and_last(values.amax(dim=2) != 0)
    return torch.stack((left, top, right, bottom), dim=1).float()


def _first_and_last(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the first and the last True in each row of (N, S); 0 and 0 for a row of False."""
    index = torch.arange(occupied.shape[1], device=occupied.device)
    last = (index * occupied).amax(dim=1)
    first = torch.where(occupied, index, occupied.shape[1]).amin(dim=1)
    return first.where(occupied.any(dim=1), last), last
