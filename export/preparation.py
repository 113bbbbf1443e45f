"""Images as inputs of an exported model: at their own sizes, or in batches of a fixed size."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from datasets.coco import make_coco_transforms
from datasets.loading.byte_images import IMAGENET, Normalization
from datasets.loading.images import read_upright
from datasets.transforms import ToNormalizedTensor
from export.check import MaskedBatch
from export.wrapper import SizeHW
from util.errors import UserError


def image_paths(folder: str, at_most: int) -> list[Path]:
    """Paths of images in a folder, evenly spread over the sorted names.

    Raises:
        UserError: no such folder, or no images in it.
    """
    known = Image.registered_extensions()
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: is not a folder; give a folder with images")
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in known)
    if not paths:
        raise UserError(f"{folder}: has no images; give images typical of the model's use")
    count = min(at_most, len(paths))
    return [paths[i * len(paths) // count] for i in range(count)]


@dataclass(frozen=True)
class Preparation:
    """How a model's input images are scaled and normalized.

    Attributes:
        short_side: short side of input images in pixels.
        max_size: maximum long side of input images in pixels.
        fixed_hw: height and width of all batches; None: the size of the scaled image.
        normalization: mean and standard deviation of the images.
    """

    short_side: int
    max_size: int
    fixed_hw: SizeHW | None = None
    normalization: Normalization = IMAGENET

    def batch_of(self, image: Image.Image) -> MaskedBatch:
        """The image as a batch (1, 3, H, W), scaled and normalized, and its mask (1, H, W)."""
        if self.fixed_hw is not None:
            return in_fixed_size(image, self.fixed_hw, self.normalization)
        transform = make_coco_transforms(
            "val", [self.short_side], self.max_size, normalization=self.normalization
        )
        images = transform(image, None)[0][None]
        return images, torch.zeros(1, *images.shape[2:], dtype=torch.bool)

    def batches_of(self, paths: Iterable[Path]) -> Iterator[MaskedBatch]:
        """Batches of one image each.

        Raises:
            UserError: a file cannot be read.
        """
        return (self.batch_of(read_upright(path)) for path in paths)


def in_fixed_size(
    image: Image.Image, fixed_hw: SizeHW, normalization: Normalization = IMAGENET
) -> MaskedBatch:
    """Scale an image to fit, keeping its aspect ratio, then normalize and pad it."""
    height, width = fitting_hw(image.size, fixed_hw)
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = ToNormalizedTensor(*normalization)(scaled, None)[0]
    images = torch.zeros(1, 3, *fixed_hw)
    padding_mask = torch.ones(1, *fixed_hw, dtype=torch.bool)
    images[0, :, :height, :width] = pixels
    padding_mask[0, :height, :width] = False
    return images, padding_mask


def fitting_hw(size_wh: tuple[int, int], fixed_hw: SizeHW) -> SizeHW:
    """Height and width of the largest image with this aspect ratio that fits in ``fixed_hw``.

    >>> fitting_hw((640, 480), (800, 1333))
    (800, 1066)
    """
    width, height = size_wh
    scale = min(fixed_hw[0] / height, fixed_hw[1] / width)
    return max(1, int(height * scale + 1e-6)), max(1, int(width * scale + 1e-6))
