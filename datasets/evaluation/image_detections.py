"""Detections of an image: from tensors to compact arrays to COCO result entries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle_tools
from torch import Tensor

from datasets.annotations.segmentations import encode_masks
from datasets.evaluation.coco_scoring import IOU_TYPES, Annotation
from util.errors import UserError

Prediction = Mapping[str, Tensor]

_NEEDED_FIELD = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}
_HALF_PRECISION = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class ImageDetections:
    """Detections of an image on the CPU, in COCO's formats; fields that are not evaluated are None.

    Attributes:
        scores: (N,) in [0, 1].
        labels: (N,) category ids.
        boxes_xywh: (N, 4) pixels.
        rles: N masks as compressed RLE with text counts, as in JSON.
        keypoints: (N, 3 K): x, y and score of each keypoint.
    """

    scores: np.ndarray
    labels: np.ndarray
    boxes_xywh: np.ndarray | None = None
    rles: list[dict[str, Any]] | None = None
    keypoints: np.ndarray | None = None


def convert_to_xywh(boxes: Tensor) -> Tensor:
    """Convert boxes (N, 4) from (x0, y0, x1, y1) to (x0, y0, width, height)."""
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)


def check_iou_type(iou_type: str) -> None:
    """Raise a ValueError unless the IoU type is in `datasets.evaluation.coco_scoring.IOU_TYPES`."""
    if iou_type not in IOU_TYPES:
        raise ValueError(f"IoU type is {iou_type!r}, expected one of {', '.join(IOU_TYPES)}")


def collect_detections(
    image_id: int, prediction: Prediction, iou_types: Sequence[str]
) -> ImageDetections:
    """Convert the prediction for an image to compact arrays on the CPU.

    Args:
        image_id: id of the image, for messages.
        prediction: see `datasets.coco_eval.CocoEvaluator.update`; may be empty.
        iou_types: IoU types whose shapes are collected.

    Raises:
        UserError: if scores or shapes are not finite.
        ValueError: if a field is missing, or fields differ in length.
    """
    if len(prediction) == 0:
        return no_detections()
    _check_fields(image_id, prediction, iou_types)
    boxes = prediction["boxes"] if "bbox" in iou_types else None
    keypoints = prediction["keypoints"] if "keypoints" in iou_types else None
    collected = ImageDetections(
        scores=_to_numpy(prediction["scores"]),
        labels=_to_numpy(prediction["labels"]).astype(np.int64),
        boxes_xywh=None if boxes is None else _to_numpy(convert_to_xywh(boxes)),
        rles=_encode_masks(prediction["masks"]) if "segm" in iou_types else None,
        keypoints=None if keypoints is None else _to_numpy(keypoints.flatten(start_dim=1)),
    )
    _check_finite(image_id, collected)
    return collected


def no_detections() -> ImageDetections:
    """Return empty detections for all IoU types."""
    return ImageDetections(
        scores=np.empty(0, np.float32),
        labels=np.empty(0, np.int64),
        boxes_xywh=np.empty((0, 4), np.float32),
        rles=[],
        keypoints=np.empty((0, 0), np.float32),
    )


def result_entries(image_id: int, collected: ImageDetections, iou_type: str) -> list[Annotation]:
    """Return the COCO result entries of an image, in the order of the detections.

    Args:
        iou_type: selects the field ``bbox`` (xywh), ``segmentation`` (RLE) or ``keypoints``.

    Raises:
        ValueError: if the shapes of this IoU type were not collected.
    """
    name, shapes = _shapes(collected, iou_type)
    return [
        {"image_id": image_id, "category_id": label, name: shape, "score": score}
        for label, shape, score in zip(
            collected.labels.tolist(), shapes, collected.scores.tolist(), strict=True
        )
    ]


def extent_of(entry: Annotation) -> Annotation:
    """Return the area of a detection in square pixels, and for keypoints also their box."""
    if "bbox" in entry:
        return {"area": entry["bbox"][2] * entry["bbox"][3]}
    if "segmentation" in entry:
        return {"area": float(rle_tools.area(entry["segmentation"]))}
    x, y = entry["keypoints"][0::3], entry["keypoints"][1::3]
    width, height = max(x) - min(x), max(y) - min(y)
    return {"bbox": [min(x), min(y), width, height], "area": width * height}


def _check_fields(image_id: int, prediction: Prediction, iou_types: Sequence[str]) -> None:
    needed = ["scores", "labels", *(_NEEDED_FIELD[kind] for kind in iou_types)]
    missing = [name for name in needed if name not in prediction]
    if missing:
        raise ValueError(
            f"detections of image {image_id}: expected {', '.join(needed)}, "
            f"missing {', '.join(missing)}"
        )
    lengths = {name: len(prediction[name]) for name in needed}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"detections of image {image_id}: expected fields of equal length, got {lengths}"
        )


def _check_finite(image_id: int, collected: ImageDetections) -> None:
    for name in ("scores", "boxes_xywh", "keypoints"):
        values = getattr(collected, name)
        if values is not None and not np.isfinite(values).all():
            raise UserError(
                f"detections of image {image_id}: {name} are not finite (NaN or infinity), so the "
                "weights have diverged: continue from an earlier checkpoint with a lower --lr"
            )


def _to_numpy(values: Tensor) -> np.ndarray:
    """Copy to the CPU; convert half precision, which NumPy does not fully support, to float32."""
    values = values.detach()
    return (values.float() if values.dtype in _HALF_PRECISION else values).cpu().numpy()


def _encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """Encode masks (N, 1, H, W) or (N, H, W), in [0, 1], as compressed RLE with text counts."""
    binary = (masks.flatten(0, -3) > 0.5).permute(1, 2, 0).cpu().numpy()  # [H, W, N]
    return encode_masks(binary)


def _shapes(collected: ImageDetections, iou_type: str) -> tuple[str, list[Any]]:
    """Return the name of the field for the IoU type, and its value for each detection."""
    name, values = {
        "bbox": ("bbox", collected.boxes_xywh),
        "segm": ("segmentation", collected.rles),
        "keypoints": ("keypoints", collected.keypoints),
    }[iou_type]
    if values is None:
        raise ValueError(f"this evaluator does not collect detections for IoU type {iou_type!r}")
    return name, values if isinstance(values, list) else values.tolist()
