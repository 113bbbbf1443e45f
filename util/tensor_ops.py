"""Top-k accuracy, and interpolation of empty tensors."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def accuracy(output: Tensor, target: Tensor, topk: Sequence[int] = (1,)) -> list[Tensor]:
    """Top-k accuracy in percent.

    Args:
        output: scores (N, classes).
        target: class indices (N,), int64.
        topk: values of k; values above the number of classes are reduced to it.

    Returns:
        one 0-d tensor in [0, 100] per k; zeros if N is 0.

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
    """`torch.nn.functional.interpolate` that also accepts tensors with 0 channels.

    Args:
        input: (B, C, H, W), floating point; B and C may be 0.
        size: output (height, width), or one number for both.
        scale_factor: instead of ``size``.
        mode: ``nearest``, ``bilinear``, ``bicubic`` or ``area``.
        align_corners: for bilinear and bicubic: corner pixels keep their values.

    Returns:
        (B, C, height, width), with the dtype of ``input``.
    """
    if input.shape[1] > 0:
        return F.interpolate(input, size, scale_factor, mode, align_corners)
    # PyTorch rejects 0 channels, but accepts 0 images.
    as_images = input.reshape(-1, 1, *input.shape[2:])
    resized = F.interpolate(as_images, size, scale_factor, mode, align_corners)
    return resized.reshape(*input.shape[:2], *resized.shape[2:])
