"""Asynchronous copies to a device."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


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
