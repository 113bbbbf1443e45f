"""Copies to a device, conversion to float32, top-k accuracy, interpolation of empty tensors."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

T = TypeVar("T")


def to_device(value: Any, device: torch.device) -> Any:
    """Copy to a device. Copies to a GPU are asynchronous, from page-locked memory.

    Args:
        value: tensor, array or images of a batch (with ``to``, such as
            `util.nested_tensor.NestedTensor`); or a dict, list or tuple of them.

    Returns:
        the value on the device; arrays become tensors, and tuples become lists.
    """
    if isinstance(value, dict):
        return {name: to_device(entry, device) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_device(entry, device) for entry in value]
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if device.type == "cuda" and isinstance(value, Tensor) and value.device.type == "cpu":
        value = value.pin_memory()
    return value.to(device, non_blocking=device.type != "cpu")


def at_least_float32(x: Tensor) -> Tensor:
    """Convert float16 and bfloat16 to float32; other dtypes are unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def in_float32(head: Callable[[Tensor], T], x: Tensor) -> T:
    """``head(x)`` in float32 under autocast: bfloat16 has too few digits for box coordinates.

    Without autocast the weights may be in the same dtype, after ``model.bfloat16()``.
    """
    if x.device.type == "meta":  # the meta device has no autocast
        return head(x)
    x = at_least_float32(x) if torch.is_autocast_enabled(x.device.type) else x
    with torch.autocast(x.device.type, enabled=False):
        return head(x)


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
