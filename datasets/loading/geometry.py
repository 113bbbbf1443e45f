"""Crop, flip, resize and pad an image with its target. The inputs are not changed.

A target is a dict of tensors for N objects. Keys that are not listed here are passed on unchanged:

- ``boxes``: (N, 4) xyxy in pixels.
- ``labels``, ``iscrowd``: (N,) each.
- ``area``: (N,) in square pixels.
- ``masks``: (N, H, W) 0/1 or bool.
- ``keypoints``: (N, K, 3): x and y in pixels, and COCO's visibility (0 not labeled, 1 hidden,
  2 visible). A keypoint with visibility 0 stays at (0, 0).
- ``size``: (2,) current height and width of the image.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torch.nn.functional import pad as pad_tensor

Target = dict[str, Tensor]
Sample = tuple[Image.Image, Target | None]

RESIZE_KERNELS = ("pillow", "torch")
PER_OBJECT_FIELDS = ("labels", "area", "iscrowd", "boxes", "masks", "keypoints")

# The nose, then eight pairs from eyes to ankles, with left and right exchanged.
COCO_KEYPOINTS_MIRRORED = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]


def crop(
    image: Image.Image, target: Target | None, region: tuple[int, int, int, int] | list[int]
) -> Sample:
    """Crop an image, and remove objects outside the region.

    Args:
        image: PIL image.
        target: see above. ``area`` becomes the area of the clipped boxes.
        region: top, left, height, width in pixels; black outside the image.

    Returns:
        the cropped image and its target. An object is kept if its clipped box has a positive size
        or, without boxes, if its cropped mask is not empty. Keypoints outside the region become
        not labeled.
    """
    top, left, height, width = region
    cropped = image.crop((left, top, left + width, top + height))
    if target is None:
        return cropped, None
    target = target.copy()
    target["size"] = torch.tensor([height, width])
    if "masks" in target:
        right, bottom = left + width - image.width, top + height - image.height
        target["masks"] = pad_tensor(target["masks"], (-left, right, -top, bottom))
    if "keypoints" in target:
        target["keypoints"] = _clip_keypoints(target["keypoints"], left, top, width, height)
    if "boxes" in target:
        boxes = _clip_boxes(target["boxes"], left, top, width, height)
        extent = boxes[:, 2:] - boxes[:, :2]
        target.update(boxes=boxes, area=extent.prod(dim=1))
        return cropped, _select(target, (extent > 0).all(dim=1))
    if "masks" in target:
        return cropped, _select(target, target["masks"].bool().flatten(1).any(dim=1))
    return cropped, target


def _clip_boxes(boxes: Tensor, left: int, top: int, width: int, height: int) -> Tensor:
    """Move boxes (N, 4) xyxy into the coordinates of a region, and clip them to it."""
    limit = boxes.new_tensor([width, height, width, height])
    return (boxes - boxes.new_tensor([left, top, left, top])).min(limit).clamp(min=0)


def _clip_keypoints(keypoints: Tensor, left: int, top: int, width: int, height: int) -> Tensor:
    """Move keypoints (N, K, 3) into the coordinates of a region; outside: not labeled."""
    x, y, visibility = (keypoints - keypoints.new_tensor([left, top, 0])).unbind(-1)
    inside = (visibility > 0) & (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    return torch.stack([x, y, visibility], dim=-1).masked_fill(~inside.unsqueeze(-1), 0)


def _select(target: Target, keep: Tensor) -> Target:
    """Keep the objects marked by ``keep``, (N,) bool."""
    if keep.all():
        return target
    return {
        key: value[keep] if key in PER_OBJECT_FIELDS else value for key, value in target.items()
    }


def hflip(image: Image.Image, target: Target | None) -> Sample:
    """Flip an image horizontally.

    An x coordinate becomes width - x. Left and right keypoints are exchanged if there are 17, as
    for COCO's persons; otherwise their order is kept, since left and right are unknown.
    """
    flipped = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if target is None:
        return flipped, None
    target = target.copy()
    if "boxes" in target:
        x0, y0, x1, y1 = target["boxes"].unbind(-1)
        target["boxes"] = torch.stack([image.width - x1, y0, image.width - x0, y1], dim=-1)
    if "masks" in target:
        target["masks"] = target["masks"].flip(-1)
    if "keypoints" in target:
        target["keypoints"] = _mirror_keypoints(target["keypoints"], image.width)
    return flipped, target


def _mirror_keypoints(keypoints: Tensor, width: int) -> Tensor:
    """Flip keypoints (N, K, 3), and exchange left and right for COCO's 17."""
    if keypoints.shape[1] == len(COCO_KEYPOINTS_MIRRORED):
        keypoints = keypoints[:, COCO_KEYPOINTS_MIRRORED]
    x, y, visibility = keypoints.unbind(-1)
    mirrored = torch.stack([width - x, y, visibility], dim=-1)
    return mirrored.masked_fill((visibility == 0).unsqueeze(-1), 0)


def resize(
    image: Image.Image,
    target: Target | None,
    size: int | Sequence[int],
    max_size: int | None = None,
    kernel: str = "pillow",
) -> Sample:
    """Resize an image (bilinear with antialiasing) and its masks (nearest neighbor).

    Args:
        image: PIL image.
        target: see above; boxes, area, masks and keypoints are scaled.
        size: short side or (width, height), in pixels.
        max_size: approximate limit for the long side in pixels, if ``size`` is the short side.
        kernel: ``pillow`` or ``torch``, see `resize_image`; for the image only.
    """
    if isinstance(size, Sequence):
        width, height = size
    else:
        width, height = scaled_size(image.size, size, max_size)
    scaled = resize_image(image, (width, height), kernel)
    if target is None:
        return scaled, None
    target = target.copy()
    target["size"] = torch.tensor([height, width])
    ratio_x, ratio_y = width / image.width, height / image.height
    if "boxes" in target:
        boxes = target["boxes"]
        target["boxes"] = boxes * boxes.new_tensor([ratio_x, ratio_y, ratio_x, ratio_y])
    if "area" in target:
        target["area"] = target["area"] * (ratio_x * ratio_y)
    if "masks" in target:
        target["masks"] = _resize_masks(target["masks"], height, width)
    if "keypoints" in target:
        keypoints = target["keypoints"]
        target["keypoints"] = keypoints * keypoints.new_tensor([ratio_x, ratio_y, 1])
    return scaled, target


def resize_image(
    image: Image.Image, size_wh: tuple[int, int], kernel: str = "pillow"
) -> Image.Image:
    """Resize an image with Pillow or with PyTorch: bilinear interpolation with antialiasing.

    PyTorch's kernel for 8-bit images takes about a third of the time of Pillow's. Its weights have
    fewer bits, so that some values differ by 1, rarely by 2 (of 255); ``docs/data.md`` has numbers.

    Args:
        image: PIL image. Modes other than RGB and L are always resized with Pillow.
        size_wh: new width and height in pixels.
        kernel: ``pillow`` or ``torch``.

    Raises:
        ValueError: if the kernel is unknown.
    """
    if kernel not in RESIZE_KERNELS:
        raise ValueError(f"resize kernel {kernel!r} is not one of {', '.join(RESIZE_KERNELS)}")
    if kernel == "pillow" or image.mode not in ("RGB", "L"):
        return image.resize(size_wh, Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).view(1, image.height, image.width, -1)
    # (1, H, W, C) -> (1, C, H, W) as a view: a fast kernel needs channels-last strides
    channels = pixels.permute(0, 3, 1, 2)
    resized = interpolate(channels, size_wh[::-1], mode="bilinear", antialias=True)
    rows = resized[0].permute(1, 2, 0).contiguous().numpy()  # (H, W, C)
    return Image.fromarray(rows[..., 0] if image.mode == "L" else rows)


def scaled_size(size_wh: tuple[int, int], short_side: int, max_size: int | None) -> tuple[int, int]:
    """Return width and height with the given short side and the same aspect ratio.

    The short side is reduced if the long side would exceed ``max_size``. As in the original, the
    short side is rounded first, so the long side can exceed ``max_size`` slightly.
    """
    short, long = min(size_wh), max(size_wh)
    if max_size is not None and long / short * short_side > max_size:
        short_side = round(max_size * short / long)
    if short_side < 1:  # very thin image
        short_side, long_side = 1, max_size or 1
    else:
        long_side = int(short_side * long / short)
    return (short_side, long_side) if size_wh[0] < size_wh[1] else (long_side, short_side)


def _resize_masks(masks: Tensor, height: int, width: int) -> Tensor:
    """Resize masks (N, H, W) with nearest-neighbor interpolation; bool."""
    rows = _nearest_positions(masks.shape[-2], height)
    columns = _nearest_positions(masks.shape[-1], width)
    # Columns first: the second selection then copies whole rows.
    return masks.bool().index_select(2, columns).index_select(1, rows)


def _nearest_positions(length: int, new_length: int) -> Tensor:
    """Source indices (new_length,) of torch's nearest-neighbor interpolation."""
    positions = torch.arange(length, dtype=torch.float32).view(1, 1, -1)
    return interpolate(positions, new_length, mode="nearest").flatten().long()


def pad(image: Image.Image, target: Target | None, padding: Sequence[int]) -> Sample:
    """Pad an image with black pixels at the right and at the bottom.

    Args:
        image: PIL image.
        target: see above; only ``size`` and ``masks`` change.
        padding: number of pixels at the right and at the bottom.
    """
    right, bottom = padding
    width, height = image.width + right, image.height + bottom
    padded = image.crop((0, 0, width, height))
    if target is None:
        return padded, None
    target = target.copy()
    target["size"] = torch.tensor([height, width])
    if "masks" in target:
        target["masks"] = pad_tensor(target["masks"], (0, right, 0, bottom))
    return padded, target
