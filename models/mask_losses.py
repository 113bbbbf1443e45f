"""Losses between predicted and true masks (DETR paper, section 4.4 and appendix A.2)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def dice_loss(inputs: Tensor, targets: Tensor, num_boxes: Tensor | float) -> Tensor:
    """One minus the dice coefficient (F1 of pixels), smoothed by a pixel, summed over the masks.

    Args:
        inputs: mask logits (P, ...).
        targets: (P, ...), 1 inside, 0 outside.
        num_boxes: divisor of the sum.

    Source: Milletari et al., "V-Net", 2016.
    """
    probabilities, wanted = inputs.sigmoid().flatten(1), targets.flatten(1)
    overlap = (probabilities * wanted).sum(1)
    total = probabilities.sum(1) + wanted.sum(1)
    return (1 - (2 * overlap + 1) / (total + 1)).sum() / num_boxes


def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    num_boxes: Tensor | float,
    alpha: float = 0.25,
    gamma: float = 2,
) -> Tensor:
    """Binary cross-entropy with well-classified pixels weighted down, averaged over each mask.

    Args:
        inputs: mask logits (P, N).
        targets: (P, N), 1 inside, 0 outside.
        num_boxes: divisor of the sum over masks.
        alpha: weight of the pixels inside, those outside have ``1 - alpha``; negative: no weights.
        gamma: exponent of the probability of being wrong.

    Source: Lin et al., "Focal Loss for Dense Object Detection", 2017, equation 5.
    """
    entropy = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    probabilities = inputs.sigmoid()
    error = probabilities + targets - 2 * probabilities * targets  # of hard targets: |p - t|
    loss = entropy * error**gamma
    if alpha >= 0:
        loss = loss * (1 - alpha + (2 * alpha - 1) * targets)
    return loss.mean(1).sum() / num_boxes


def pad_masks(masks: Sequence[Tensor]) -> Tensor:
    """Concatenate the masks of a batch, padded with zeros at the right and the bottom.

    Args:
        masks: (n, H, W) of each image, 1 inside.

    Returns:
        (N, H, W) uint8 with the largest height and the largest width.
    """
    height, width = (max(mask.shape[axis] for mask in masks) for axis in (1, 2))
    padded = [
        F.pad(mask.byte(), (0, width - mask.shape[2], 0, height - mask.shape[1])) for mask in masks
    ]
    return torch.cat(padded)
