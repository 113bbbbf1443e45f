"""Training and evaluation transforms: classes called with an image and its target.

`datasets.loading.geometry` describes the target and contains the functions behind the classes.
Random numbers come from Python's ``random``; only the position of a crop and the erased region come
from torch. With equal seeds the augmentation is the same as in the original.

Source: section 4 and appendix A.4 of the paper (arXiv 2005.12872).
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torchvision.transforms as T
from PIL import Image
from torch import Tensor

from datasets.loading.byte_images import Normalization, normalize_into
from datasets.loading.geometry import Sample, Target, crop, hflip, pad, resize
from util.box_ops import box_xyxy_to_cxcywh

__all__ = [
    "CenterCrop",
    "Compose",
    "Normalize",
    "RandomCrop",
    "RandomErasing",
    "RandomHorizontalFlip",
    "RandomPad",
    "RandomResize",
    "RandomSelect",
    "RandomSizeCrop",
    "Sample",
    "Target",
    "ToBytes",
    "ToNormalizedTensor",
    "ToTensor",
    "Transform",
    "crop",
    "hflip",
    "pad",
    "resize",
]

Transform = Callable[[Any, Any], tuple[Any, Any]]  # called with image (or tensor) and target


class RandomCrop:
    """Crop a region of fixed size at a random position.

    Args:
        size: height and width in pixels; the image must not be smaller.
    """

    def __init__(self, size: Sequence[int]) -> None:
        self.size = (size[0], size[1])

    def __call__(self, image: Image.Image, target: Target | None) -> Sample:
        return crop(image, target, T.RandomCrop.get_params(image, self.size))


class RandomSizeCrop:
    """Crop a region of random size at a random position.

    Args:
        min_size: minimum side in pixels; a shorter side of the image is not cropped.
        max_size: maximum side in pixels.
    """

    def __init__(self, min_size: int, max_size: int) -> None:
        self.min_size = min_size
        self.max_size = max_size

    def __call__(self, image: Image.Image, target: Target | None) -> Sample:
        width = self._side(image.width)
        height = self._side(image.height)
        return crop(image, target, T.RandomCrop.get_params(image, (height, width)))

    def _side(self, available: int) -> int:
        return random.randint(min(self.min_size, available), min(available, self.max_size))


class CenterCrop:
    """Crop a region of fixed size from the center.

    Args:
        size: height and width in pixels; black outside the image.
    """

    def __init__(self, size: Sequence[int]) -> None:
        self.size = size

    def __call__(self, image: Image.Image, target: Target | None) -> Sample:
        height, width = self.size
        top, left = round((image.height - height) / 2), round((image.width - width) / 2)
        return crop(image, target, (top, left, height, width))


class RandomHorizontalFlip:
    """Flip horizontally with probability ``p``."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, image: Image.Image, target: Target | None) -> Sample:
        return hflip(image, target) if random.random() < self.p else (image, target)


class RandomResize:
    """Resize to a size chosen at random from a list.

    Args:
        sizes: short sides or (width, height) pairs in pixels, all equally likely.
        max_size: approximate limit for the long side in pixels.
        kernel: ``pillow``, or ``torch``: faster, see `datasets.loading.geometry.resize_image`.
    """

    def __init__(
        self,
        sizes: Sequence[int | Sequence[int]],
        max_size: int | None = None,
        kernel: str = "pillow",
    ) -> None:
        self.sizes = sizes
        self.max_size = max_size
        self.kernel = kernel

    def __call__(self, image: Image.Image, target: Target | None = None) -> Sample:
        return resize(image, target, random.choice(self.sizes), self.max_size, self.kernel)


class RandomPad:
    """Pad at the right and at the bottom, by up to ``max_pad`` pixels each."""

    def __init__(self, max_pad: int) -> None:
        self.max_pad = max_pad

    def __call__(self, image: Image.Image, target: Target | None) -> Sample:
        right = random.randint(0, self.max_pad)
        bottom = random.randint(0, self.max_pad)
        return pad(image, target, (right, bottom))


class RandomSelect:
    """Apply the first transform with probability ``p``, else the second."""

    def __init__(self, transforms1: Transform, transforms2: Transform, p: float = 0.5) -> None:
        self.transforms1 = transforms1
        self.transforms2 = transforms2
        self.p = p

    def __call__(self, image: Any, target: Target | None) -> tuple[Any, Target | None]:
        chosen = self.transforms1 if random.random() < self.p else self.transforms2
        return chosen(image, target)


class ToTensor:
    """Convert an 8-bit image to a float32 tensor (C, H, W) in [0, 1].

    Arrays (H, W, C) are converted as by `torchvision.transforms.functional.to_tensor`.
    """

    def __call__(
        self, image: Image.Image | np.ndarray[Any, Any], target: Target | None
    ) -> tuple[Tensor, Target | None]:
        if not isinstance(image, Image.Image):
            return T.functional.to_tensor(image), target
        return _pixels_of(image).to(torch.float32).div_(255), target


def _pixels_of(image: Image.Image) -> Tensor:
    """The pixels of an 8-bit image, uint8 (C, H, W).

    Pillow separates the channels three times as fast as PyTorch.
    """
    return torch.from_numpy(np.stack([np.asarray(c, dtype=np.uint8) for c in image.split()]))


class RandomErasing:
    """Erase a random region of an image tensor; arguments as in torchvision."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.eraser = T.RandomErasing(*args, **kwargs)

    def __call__(self, image: Tensor, target: Target | None) -> tuple[Tensor, Target | None]:
        return self.eraser(image), target


class Normalize:
    """Normalize an image tensor (C, H, W), and convert boxes from xyxy pixels to cxcywh in [0, 1].

    Args:
        mean: mean of each channel.
        std: standard deviation of each channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = mean
        self.std = std

    def __call__(self, image: Tensor, target: Target | None = None) -> tuple[Tensor, Target | None]:
        height, width = image.shape[-2:]
        mean, std = (image.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (image - mean).div_(std), _with_relative_boxes(target, width, height)


class ToNormalizedTensor:
    """`ToTensor` and `Normalize` in one pass: the same result in half the time.

    In a run `datasets.loading.samples.Samples` applies `ToBytes` instead.

    Attributes:
        normalization: mean and standard deviation of each channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.normalization = Normalization(mean, std)

    def __call__(self, image: Image.Image, target: Target | None) -> tuple[Tensor, Target | None]:
        pixels = _pixels_of(image)
        normalized = torch.empty(len(self.normalization.mean), image.height, image.width)
        normalize_into(normalized, pixels, self.normalization.constants(pixels.device))
        return normalized, _with_relative_boxes(target, *image.size)


class ToBytes:
    """Convert an 8-bit image to a tensor, uint8 (C, H, W), and boxes as `Normalize` does.

    The images are normalized later, see `datasets.loading.byte_images.ByteImages`.
    """

    def __call__(self, image: Image.Image, target: Target | None) -> tuple[Tensor, Target | None]:
        return _pixels_of(image), _with_relative_boxes(target, *image.size)


def _with_relative_boxes(target: Target | None, width: int, height: int) -> Target | None:
    """Convert boxes (N, 4) from xyxy in pixels to cxcywh in [0, 1]."""
    if target is None:
        return None
    target = target.copy()
    if "boxes" in target:
        boxes = box_xyxy_to_cxcywh(target["boxes"])
        target["boxes"] = boxes / boxes.new_tensor([width, height, width, height])
    return target


class Compose:
    """Apply transforms in sequence."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any, target: Target | None) -> tuple[Any, Target | None]:
        for transform in self.transforms:
            image, target = transform(image, target)
        return image, target

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.transforms))})"
