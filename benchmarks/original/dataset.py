"""The original's COCO dataset: pycocotools' index, PIL, and a conversion row by row."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torch import Tensor
from torch.utils.data import Dataset


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
