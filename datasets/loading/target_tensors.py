"""Convert the annotations of an image to target tensors."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from datasets.annotations.coco_file import Row, box_area
from datasets.annotations.segmentations import MAX_MASK_PIXELS, encode_segmentation
from datasets.transforms import Target


class ConvertCocoPolysToMask:
    """Convert the COCO annotations of an image to a target.

    Crowds, boxes with zero area and boxes outside the image are dropped.

    Args:
        return_masks: whether targets have masks.
    """

    def __init__(self, return_masks: bool = False) -> None:
        self.return_masks = return_masks

    def __call__(self, image: Image.Image, target: dict[str, Any]) -> tuple[Image.Image, Target]:
        """Convert the annotations of an image.

        Args:
            image: PIL image.
            target: ``image_id``, and ``annotations`` as in a COCO file.

        Returns:
            The image, and a target for N objects: ``boxes`` (N, 4) float32 xyxy pixels, clipped to
            the image; ``labels`` (N,) int64 category ids; ``area`` (N,) float32 square pixels;
            ``iscrowd`` (N,) int64; ``image_id`` (1,); ``orig_size`` and ``size`` (2,) height and
            width; ``keypoints`` (N, K, 3) if annotated; ``masks`` (N, H, W) uint8 if requested.
        """
        width, height = image.size
        objects = [row for row in target["annotations"] if not row.get("iscrowd")]
        boxes = _boxes_xyxy(objects, width, height)
        keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        kept = [row for row, is_kept in zip(objects, keep.tolist(), strict=True) if is_kept]
        converted = {
            "boxes": boxes[keep],
            "labels": torch.tensor([row["category_id"] for row in kept], dtype=torch.int64),
            "area": torch.tensor([box_area(row) for row in kept], dtype=torch.float32),
            "iscrowd": torch.zeros(len(kept), dtype=torch.int64),
            "image_id": torch.tensor([target["image_id"]]),
            "orig_size": torch.tensor([height, width]),
            "size": torch.tensor([height, width]),
        }
        if self.return_masks:
            segmentations = [row.get("segmentation") for row in kept]
            converted["masks"] = convert_coco_poly_to_mask(segmentations, height, width)
        if any(row.get("keypoints") for row in objects):
            converted["keypoints"] = _keypoints_of(objects)[keep]
        return image, converted


def convert_coco_poly_to_mask(segmentations: Sequence[Any], height: int, width: int) -> Tensor:
    """Rasterize segmentations.

    Args:
        segmentations: one per object: a list of polygons (x, y, x, y, … in pixels), whose
            union is taken, or an RLE.
        height: height of the image in pixels.
        width: width of the image in pixels.

    Returns:
        Masks (N, H, W) uint8, 1 inside.

    Raises:
        ValueError: if a segmentation is invalid (see `encode_segmentation`), or all masks together
            exceed `MAX_MASK_PIXELS`.
    """
    if not segmentations:
        return torch.zeros((0, height, width), dtype=torch.uint8)
    if len(segmentations) * height * width > MAX_MASK_PIXELS:
        raise ValueError(
            f"{len(segmentations)} masks of {height} x {width} pixels exceed the limit of "
            f"{MAX_MASK_PIXELS} pixels in total"
        )
    encoded = [encode_segmentation(segmentation, height, width) for segmentation in segmentations]
    # (H, W, N) -> (N, H, W)
    return torch.from_numpy(coco_mask.decode(encoded)).permute(2, 0, 1).contiguous()


def _boxes_xyxy(annotations: list[Row], width: int, height: int) -> Tensor:
    """Convert boxes to (N, 4) float32 xyxy pixels, clipped to the image."""
    boxes = torch.tensor([row["bbox"] for row in annotations], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, 0::2].clamp_(min=0, max=width)
    boxes[:, 1::2].clamp_(min=0, max=height)
    return boxes


def _keypoints_of(annotations: list[Row]) -> Tensor:
    """Convert keypoints to (N, K, 3) float32; missing keypoints are (0, 0, 0), not labeled."""
    flat = [row.get("keypoints") or [] for row in annotations]
    longest = max(map(len, flat))
    padded = [points + [0] * (longest - len(points)) for points in flat]
    return torch.tensor(padded, dtype=torch.float32).view(len(flat), -1, 3)
