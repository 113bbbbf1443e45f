"""Detections and panoptic maps of a batch, in the format of the evaluators."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Targets = Sequence[dict[str, Tensor]]


def detections(
    postprocessors: Mapping[str, nn.Module], outputs: Any, targets: Targets
) -> dict[int, dict[str, Tensor]]:
    """Detections of each image, by image id, in pixels of the original image.

    Args:
        postprocessors: post-processors by name: ``bbox``, and optionally ``segm`` for masks.
        targets: for each image ``orig_size``, ``image_id``, and for masks ``size``.
    """
    original_sizes = _sizes(targets, "orig_size")
    results = postprocessors["bbox"](outputs, original_sizes)
    if "segm" in postprocessors:
        sizes = _sizes(targets, "size")
        results = postprocessors["segm"](results, outputs, original_sizes, sizes)
    return {int(t["image_id"]): result for t, result in zip(targets, results, strict=True)}


def panoptic_maps(
    postprocessor: nn.Module, outputs: Any, targets: Targets, padded_size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Panoptic maps of each image at its original size, with image ids and COCO's file names.

    Args:
        postprocessor: computes the maps; as in the original, ``padded_size`` is optional.
        targets: for each image ``orig_size``, ``size`` and ``image_id``.
        padded_size: height and width of the batch.
    """
    sizes, original_sizes = _sizes(targets, "size"), _sizes(targets, "orig_size")
    takes_padding = "padded_size" in inspect.signature(postprocessor.forward).parameters
    options = {"padded_size": padded_size} if takes_padding else {}
    maps = postprocessor(outputs, sizes, original_sizes, **options)
    ids = [int(target["image_id"]) for target in targets]
    return [
        {"image_id": image_id, "file_name": f"{image_id:012d}.png", **panoptic_map}
        for image_id, panoptic_map in zip(ids, maps, strict=True)
    ]


def _sizes(targets: Targets, name: str) -> Tensor:
    """Heights and widths (B, 2) of a batch."""
    return torch.stack([target[name] for target in targets])
