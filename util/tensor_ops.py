"""Small tensor functions that several rooms use."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def accuracy(output: Tensor, target: Tensor, topk: Sequence[int] = (1,)) -> list[Tensor]:
    """Share of rows whose target is among the k highest scores.

    Args:
        output: scores (N, classes).
        target: class indices (N,), int64.
        topk: the values of k; one beyond the number of classes counts as that number.

    Returns:
        One 0-d tensor in [0, 100] for each k; zeros where N is 0.

    >>> accuracy(torch.eye(2), torch.tensor([0, 0]))
    [tensor(50.)]
    """
    if target.numel() == 0:
        return [output.new_zeros(()) for _ in topk]
    best = output.topk(min(max(topk), output.shape[1]), dim=1).indices  # (N, max k)
    hit = best == target[:, None]
    return [hit[:, :k].any(dim=1).to(output.dtype).mean() * 100 for k in topk]


def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """`torch.nn.functional.interpolate`, also for tensors without channels.

    Args:
        input: (B, C, H, W) of floats; B and C may be 0.
        size: output (height, width), or one number for both.
        scale_factor: instead of ``size``.
        mode: ``nearest``, ``bilinear``, ``bicubic`` or ``area``.
        align_corners: for bilinear and bicubic: corner pixels keep their values.

    Returns:
        (B, C, height, width), with the type of ``input``.
    """
    if input.shape[1] > 0:
        return F.interpolate(input, size, scale_factor, mode, align_corners)
    # PyTorch refuses tensors without channels, but not those without images.
    as_images = input.reshape(-1, 1, *input.shape[2:])
    resized = F.interpolate(as_images, size, scale_factor, mode, align_corners)
    return resized.reshape(*input.shape[:2], *resized.shape[2:])
