"""The original's training augmentation with PIL, with the random draws of the published recipe."""

import random
from typing import Any

import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomCrop

from datasets.coco import PUBLISHED_SCALES
from datasets.loading.byte_images import IMAGENET

Target = dict[str, Tensor]
_MAX_SIZE = 1333  # of the long side, in pixels


class TrainTransforms:
    """Flip, resize or crop, convert to a tensor, normalize."""

    def __call__(self, image: Image.Image, target: Target) -> tuple[Tensor, Target]:
        """Augment an image and its target with boxes xyxy in pixels."""
        if random.random() < 0.5:
            image, target = _flip(image, target)
        if random.random() >= 0.5:
            image, target = _resize(image, target, random.choice([400, 500, 600]), None)
            width, height = (random.randint(min(384, n), min(n, 600)) for n in image.size)
            image, target = _crop(image, target, RandomCrop.get_params(image, (height, width)))
        image, target = _resize(image, target, random.choice(PUBLISHED_SCALES), _MAX_SIZE)
        pixels = TF.normalize(TF.to_tensor(image), *IMAGENET)
        height, width = pixels.shape[-2:]
        x0, y0, x1, y1 = target["boxes"].unbind(-1)
        cxcywh = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dim=-1)
        return pixels, {**target, "boxes": cxcywh / torch.tensor([width, height, width, height])}


def _flip(image: Image.Image, target: Target) -> tuple[Image.Image, Target]:
    target = target.copy()
    boxes = target["boxes"][:, [2, 1, 0, 3]]
    target["boxes"] = boxes * torch.tensor([-1, 1, -1, 1]) + torch.tensor(
        [image.width, 0, image.width, 0]
    )
    if "masks" in target:
        target["masks"] = target["masks"].flip(-1)
    return TF.hflip(image), target


def _crop(image: Image.Image, target: Target, region: Any) -> tuple[Image.Image, Target]:
    top, left, height, width = region
    target = {**target, "size": torch.tensor([height, width])}
    boxes = target["boxes"] - torch.tensor([left, top, left, top])
    corners = torch.min(boxes.reshape(-1, 2, 2), torch.tensor([width, height])).clamp(min=0)
    target["area"] = (corners[:, 1] - corners[:, 0]).prod(dim=1)
    target["boxes"] = corners.reshape(-1, 4)
    if "masks" in target:
        target["masks"] = target["masks"][:, top : top + height, left : left + width]
    keep = (corners[:, 1] > corners[:, 0]).all(dim=1)
    for name in ("labels", "area", "iscrowd", "boxes", "masks"):
        if name in target:
            target[name] = target[name][keep]
    return TF.crop(image, top, left, height, width), target


def _resize(
    image: Image.Image, target: Target, short_side: int, max_size: int | None
) -> tuple[Image.Image, Target]:
    short, long = sorted(image.size)
    if max_size is not None and long / short * short_side > max_size:
        short_side = round(max_size * short / long)
    long_side = int(short_side * long / short)
    size_hw = (long_side, short_side) if image.width < image.height else (short_side, long_side)
    ratio_y, ratio_x = size_hw[0] / image.height, size_hw[1] / image.width
    target = {**target, "size": torch.tensor(size_hw), "area": target["area"] * ratio_x * ratio_y}
    target["boxes"] = target["boxes"] * torch.tensor([ratio_x, ratio_y, ratio_x, ratio_y])
    if "masks" in target:
        masks = target["masks"][:, None].float()
        target["masks"] = torch.nn.functional.interpolate(masks, size_hw)[:, 0] > 0.5
    return TF.resize(image, list(size_hw)), target
