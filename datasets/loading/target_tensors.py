"""Convert the annotations of an image to target tensors."""

import torch
from torch import Tensor

from datasets.annotations.coco_file import Row


def boxes_xyxy(annotations: list[Row], width: int, height: int) -> Tensor:
    """Convert boxes to (N, 4) float32 xyxy pixels, clipped to the image."""
    boxes = torch.tensor([row["bbox"] for row in annotations], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, 0::2].clamp_(min=0, max=width)
    boxes[:, 1::2].clamp_(min=0, max=height)
    return boxes


def keypoints_of(annotations: list[Row]) -> Tensor:
    """Convert keypoints to (N, K, 3) float32; missing keypoints are (0, 0, 0), not labeled."""
    flat = [row.get("keypoints") or [] for row in annotations]
    longest = max(map(len, flat))
    padded = [points + [0] * (longest - len(points)) for points in flat]
    return torch.tensor(padded, dtype=torch.float32).view(len(flat), -1, 3)
