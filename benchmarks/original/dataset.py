"""The original's COCO dataset (pycocotools, PIL, row by row), and its training augmentation."""

import contextlib
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision.transforms.functional as TF
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import RandomCrop

from datasets.coco import PUBLISHED_SCALES
from datasets.loading.byte_images import IMAGENET

Target = dict[str, Tensor]
_MAX_SIZE = 1333  # of the long side, in pixels


def load_index(ann_file: str | Path) -> COCO:
    """pycocotools' index of an annotation file, without its printed lines."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(ann_file))


class CocoDetection(Dataset[tuple[Any, dict[str, Tensor]]]):
    """Images and targets of a COCO annotation file, as `datasets.coco.CocoDetection`.

    Args:
        ann_file: COCO instances JSON.
        transforms: called with image and target, and returns both.
        return_masks: whether targets have masks.
    """

    def __init__(
        self,
        img_folder: str | Path,
        ann_file: str | Path,
        transforms: Callable[[Any, Any], tuple[Any, Any]],
        return_masks: bool = False,
    ) -> None:
        self.coco = load_index(ann_file)
        self.ids = sorted(self.coco.imgs)
        self._folder, self._transforms, self._masks = Path(img_folder), transforms, return_masks

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Tensor]]:
        image_id = self.ids[index]
        rows = self.coco.loadAnns(self.coco.getAnnIds(imgIds=image_id))
        path = self._folder / self.coco.loadImgs(image_id)[0]["file_name"]
        with Image.open(path) as file:
            image = file.convert("RGB")
        return self._transforms(image, target_of(image_id, rows, image.size, self._masks))


def target_of(
    image_id: int, rows: list[dict[str, Any]], size_wh: tuple[int, int], return_masks: bool
) -> dict[str, Tensor]:
    """Target of an image, as `datasets.coco.ConvertCocoPolysToMask`, without keypoints."""
    width, height = size_wh
    rows = [row for row in rows if row.get("iscrowd", 0) == 0]
    boxes = torch.as_tensor([row["bbox"] for row in rows], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, 0::2].clamp_(min=0, max=width)
    boxes[:, 1::2].clamp_(min=0, max=height)
    keep = (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0])
    target = {
        "boxes": boxes[keep],
        "labels": torch.tensor([row["category_id"] for row in rows], dtype=torch.int64)[keep],
        "area": torch.tensor([row["area"] for row in rows], dtype=torch.float32)[keep],
        "iscrowd": torch.tensor([row["iscrowd"] for row in rows], dtype=torch.int64)[keep],
        "image_id": torch.tensor([image_id]),
        "orig_size": torch.as_tensor([height, width]),
        "size": torch.as_tensor([height, width]),
    }
    if return_masks:
        target["masks"] = masks_of([row["segmentation"] for row in rows], height, width)[keep]
    return target


def masks_of(segmentations: list[Any], height: int, width: int) -> Tensor:
    """Masks (N, H, W) uint8 of polygons, decoded object by object."""
    masks = []
    for polygons in segmentations:
        mask = coco_mask.decode(coco_mask.frPyObjects(polygons, height, width))
        mask = mask[..., None] if mask.ndim < 3 else mask
        masks.append(torch.as_tensor(mask, dtype=torch.uint8).any(dim=2).to(torch.uint8))
    return torch.stack(masks) if masks else torch.zeros((0, height, width), dtype=torch.uint8)


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
