"""Padded batches of images of different sizes, with padding masks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class NestedTensor:
    """A padded batch.

    Attributes:
        tensors: (B, C, H, W), zeros in the padding.
        mask: (B, H, W) bool, True = padding; None if unknown.
    """

    def __init__(self, tensors: Tensor, mask: Tensor | None):
        self.tensors = tensors
        self.mask = mask

    @torch.jit.unused
    def to(self, device: Any, non_blocking: bool = False) -> "NestedTensor":
        """Move to ``device``, like `torch.Tensor.to`."""
        mask = None if self.mask is None else self.mask.to(device, non_blocking=non_blocking)
        return NestedTensor(self.tensors.to(device, non_blocking=non_blocking), mask)

    @torch.jit.unused
    def pin_memory(self) -> "NestedTensor":
        """Copy to page-locked memory; called by a `DataLoader` with ``pin_memory=True``."""
        mask = None if self.mask is None else self.mask.pin_memory()
        return NestedTensor(self.tensors.pin_memory(), mask)

    def decompose(self):  # type: ignore[no-untyped-def]
        """The pair (tensors, mask)."""
        return self.tensors, self.mask

    @torch.jit.unused
    def __repr__(self) -> str:
        return f"NestedTensor(tensors={tuple(self.tensors.shape)}, mask={self.mask is not None})"


def nested_tensor_from_tensor_list(tensor_list: list[Tensor]) -> NestedTensor:
    """Pad images at the right and the bottom to a common size and stack them.

    Args:
        tensor_list: images (C, H, W) of any sizes, or a tensor (B, C, H, W). The number of channels
            may differ too (stacks of masks); missing channels are zeros.

    Returns:
        the batch (B, C, H, W) with its mask, in the dtype and on the device of the first image.

    Raises:
        ValueError: if the images do not have three dimensions.
    """
    first = tensor_list[0]
    if first.dim() != 3:
        raise ValueError(f"images must have shape (C, H, W), not {first.dim()} dimensions")
    channels, height, width = 0, 0, 0
    for image in tensor_list:
        channels = max(channels, image.shape[0])
        height = max(height, image.shape[1])
        width = max(width, image.shape[2])
    batch = torch.zeros(
        [len(tensor_list), channels, height, width], dtype=first.dtype, device=first.device
    )
    mask = torch.ones([len(tensor_list), height, width], dtype=torch.bool, device=first.device)
    for i, image in enumerate(tensor_list):
        batch[i, : image.shape[0], : image.shape[1], : image.shape[2]].copy_(image)
        mask[i, : image.shape[1], : image.shape[2]] = False
    return NestedTensor(batch, mask)


def collate_fn(batch: Sequence[tuple[Tensor, Any]]) -> tuple[Any, ...]:
    """Collate samples (image, target) to (NestedTensor, tuple of targets), for a `DataLoader`.

    Targets are not padded; `models.mask_losses` pads their masks. The data loaders of `main` call
    `datasets.loading.samples.collate_samples`, which leaves 8-bit images unpadded until they
    are on the device; the batches there are the same.
    """
    images, *rest = zip(*batch, strict=True)
    return nested_tensor_from_tensor_list(list(images)), *rest
