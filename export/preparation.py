"""Images as inputs of an exported model: at their own sizes, or in batches of a fixed size."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image

from datasets import transforms as T
from datasets.coco import IMAGENET_MEAN, IMAGENET_STD
from datasets.loading.images import read_upright
from export.check import Batch
from export.source import LoadedModel
from export.wrapper import SizeHW
from util.errors import UserError

_NORMALIZE = T.Compose([T.ToTensor(), T.Normalize(IMAGENET_MEAN, IMAGENET_STD)])


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
        raise UserError(f"{folder}: has no images; give a folder with images like those in use")
    count = min(at_most, len(paths))
    return [paths[i * len(paths) // count] for i in range(count)]


def batches_of(
    model: LoadedModel, paths: Sequence[Path], fixed_hw: SizeHW | None
) -> Iterator[Batch]:
    """Batches of one image, scaled and normalized, with padding masks (1, H, W).

    Args:
        model: has the sizes of its input images.
        paths: image files.
        fixed_hw: height and width of all batches; None: those of the scaled image.

    Raises:
        UserError: a file cannot be read.
    """
    for path in paths:
        image = read_upright(path)
        if fixed_hw is None:
            images = model.batch_of(image)
            yield images, torch.zeros(1, *images.shape[2:], dtype=torch.bool)
        else:
            yield in_fixed_size(image, fixed_hw)


def in_fixed_size(image: Image.Image, fixed_hw: SizeHW) -> Batch:
    """Scale an image to the largest size that fits, with its aspect ratio, and pad it."""
    height, width = fitting_hw(image.size, fixed_hw)
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels: torch.Tensor = _NORMALIZE(scaled, None)[0]
    images = torch.zeros(1, 3, *fixed_hw)
    padding_mask = torch.ones(1, *fixed_hw, dtype=torch.bool)
    images[0, :, :height, :width] = pixels
    padding_mask[0, :height, :width] = False
    return images, padding_mask


def fitting_hw(size_wh: tuple[int, int], fixed_hw: SizeHW) -> SizeHW:
    """Height and width of the largest image with this aspect ratio in ``fixed_hw``.

    >>> fitting_hw((640, 480), (800, 1333))
    (800, 1066)
    """
    width, height = size_wh
    scale = min(fixed_hw[0] / height, fixed_hw[1] / width)
    return max(1, int(height * scale + 1e-6)), max(1, int(width * scale + 1e-6))
