"""Losses of predicted masks (DETR paper, section 4.4 and appendix A.2)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def dice_loss(inputs: Tensor, targets: Tensor, num_boxes: Tensor | float) -> Tensor:
    """Dice loss: 1 - dice coefficient, smoothed by one pixel, summed over masks.

    Args:
        inputs: mask logits (P, ...).
        targets: (P, ...), 1 inside, 0 outside.
        num_boxes: divisor of the sum.

    Source: Milletari et al., "V-Net", 2016.
    """
    probabilities, targets = inputs.sigmoid().flatten(1), targets.flatten(1)
    overlap = (probabilities * targets).sum(1)
    total = probabilities.sum(1) + targets.sum(1)
    return (1 - (2 * overlap + 1) / (total + 1)).sum() / num_boxes


def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    num_boxes: Tensor | float,
    alpha: float = 0.25,
    gamma: float = 2,
) -> Tensor:
    """Focal loss (binary cross-entropy that weights easy pixels less), averaged over each mask.

    Args:
        inputs: mask logits (P, N).
        targets: (P, N), 1 inside, 0 outside.
        num_boxes: divisor of the sum over masks.
        alpha: weight of pixels inside the mask; pixels outside have the weight ``1 - alpha``. If
            negative, all pixels have the weight 1.
        gamma: focusing exponent.

    Source: Lin et al., "Focal Loss for Dense Object Detection", 2017, equation 5.
    """
    entropy = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    probabilities = inputs.sigmoid()
    error = probabilities + targets - 2 * probabilities * targets  # |p - t| for t in {0, 1}
    loss = entropy * error**gamma
    if alpha >= 0:
        loss = loss * (1 - alpha + (2 * alpha - 1) * targets)
    return loss.mean(1).sum() / num_boxes


def pad_masks(masks: Sequence[Tensor]) -> Tensor:
    """Concatenate the masks of a batch, padded with zeros at the right and bottom.

    Args:
        masks: masks (n, H, W) of each image, 1 inside.

    Returns:
        (N, H, W) uint8, with the maximum height and width.
    """
    height, width = (max(mask.shape[axis] for mask in masks) for axis in (1, 2))
    padded = [
        F.pad(mask.byte(), (0, width - mask.shape[2], 0, height - mask.shape[1])) for mask in masks
    ]
    return torch.cat(padded)
