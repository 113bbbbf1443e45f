"""Batches of 8-bit images that are normalized on the target device.

DataLoader workers send a quarter of the bytes of normalized images, without padding.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from util.errors import UserError
from util.nested_tensor import NestedTensor
from util.options import NEW_FLAG_DEFAULTS
from util.tensor_ops import to_device

_PIXELS_AT_ONCE = 2**15  # per chunk, which fits into the cache of a CPU core
_LARGEST = 1e3  # limit of means and standard deviations, which are near 1


class Normalization(NamedTuple):
    """Mean and standard deviation of each channel, of images in [0, 1]."""

    mean: Sequence[float]
    std: Sequence[float]

    @classmethod
    def of(cls, flags: Mapping[str, Any], source: str) -> "Normalization":
        """The values of the flags ``image_mean`` and ``image_std``; ImageNet's if they are missing.

        Args:
            flags: flags by name, not validated.
            source: command line or path of the file with the flags, for error messages.

        Raises:
            UserError: they are not three numbers each, or a standard deviation is not positive.
        """
        found = []
        for name, least in (("image_mean", -_LARGEST), ("image_std", 0.0)):
            values = flags.get(name, NEW_FLAG_DEFAULTS[name])
            if not (isinstance(values, list | tuple) and len(values) == 3):
                raise UserError(f"{source}: --{name} must be three numbers, one per channel")
            if not all(type(v) in (int, float) and least < v < _LARGEST for v in values):
                raise UserError(
                    f"{source}: each value of --{name} must lie between {least:g} and {_LARGEST:g}"
                )
            found.append([float(value) for value in values])
        return cls(*found)

    def flags(self) -> dict[str, list[float]]:
        """The flags by name, see `of`."""
        return {"image_mean": list(self.mean), "image_std": list(self.std)}

    def constants(self, device: torch.device) -> Tensor:
        """Divisor of 8-bit values, mean and standard deviation, (3, channels, 1, 1)."""
        rows = [[255.0] * len(self.mean), list(self.mean), list(self.std)]
        constants: Tensor = to_device(torch.tensor(rows), device)
        return constants[..., None, None]


IMAGENET = Normalization(NEW_FLAG_DEFAULTS["image_mean"], NEW_FLAG_DEFAULTS["image_std"])


def normalize_into(out: Tensor, pixels: Tensor, constants: Tensor) -> None:
    """Scale 8-bit pixels to [0, 1] and normalize them.

    The same floating-point operations as in `datasets.transforms.ToTensor` and ``Normalize``.

    Args:
        out: float32 (C, H, W), overwritten.
        pixels: uint8 (C, H, W), or one channel for all.
        constants: see `Normalization.constants`.
    """
    height, width = pixels.shape[1:]
    on_cpu = pixels.device.type == "cpu"
    rows_at_once = max(1, _PIXELS_AT_ONCE // max(1, width)) if on_cpu else height
    divisor, mean, std = constants
    for top in range(0, height, rows_at_once):
        rows = slice(top, top + rows_at_once)
        out[:, rows].copy_(pixels[:, rows]).div_(divisor).sub_(mean).div_(std)


class ByteImages:
    """A batch of 8-bit images. `to` returns the padded and normalized batch.

    Args:
        images: uint8 (C, H, W) each.
        normalization: mean and standard deviation.
    """

    def __init__(self, images: Sequence[Tensor], normalization: Normalization) -> None:
        self._pixels = torch.cat([image.flatten() for image in images])
        self._shapes = [tuple(image.shape) for image in images]
        self._normalization = normalization

    @property
    def sizes_hw(self) -> list[tuple[int, int]]:
        """Height and width of each image in pixels."""
        return [(shape[1], shape[2]) for shape in self._shapes]

    def to(self, device: Any, non_blocking: bool = False) -> NestedTensor:
        """Copy to a device, pad and normalize there; the padding is zero."""
        pixels = self._pixels.to(device, non_blocking=non_blocking)
        constants = self._normalization.constants(pixels.device)
        height, width = (max(sides) for sides in zip(*self.sizes_hw, strict=True))
        channels = constants.shape[1]
        batch = constants.new_empty(len(self._shapes), channels, height, width)
        mask = torch.ones(len(batch), height, width, dtype=torch.bool, device=batch.device)
        flat = pixels.split([math.prod(shape) for shape in self._shapes])
        for out, padding, image, shape in zip(batch, mask, flat, self._shapes, strict=True):
            bottom, right = shape[1:]
            normalize_into(out[:, :bottom, :right], image.view(shape), constants)
            out[:, bottom:] = 0
            out[:, :bottom, right:] = 0
            padding[:bottom, :right] = False
        return NestedTensor(batch, mask)

    def pin_memory(self) -> "ByteImages":
        """Copy to page-locked memory; called by a `DataLoader` with ``pin_memory=True``."""
        self._pixels = self._pixels.pin_memory()
        return self

    @property
    def tensors(self) -> Tensor:
        """The normalized batch (B, C, H, W) on the CPU, computed at each access."""
        return self.to("cpu").tensors

    @property
    def mask(self) -> Tensor:
        """Its padding mask (B, H, W)."""
        mask = self.to("cpu").mask
        assert mask is not None
        return mask
