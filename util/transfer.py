"""Asynchronous copies to a device."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_device(value: Any, device: torch.device) -> Any:
    """Copy to a device; to a GPU from page-locked memory, without waiting for the copy.

    Args:
        value: tensor, array or `util.nested_tensor.NestedTensor`; or a dict, list or tuple of them.
        device: the target.

    Returns:
        the value with a tensor in place of each array, and a list in place of each tuple.
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
