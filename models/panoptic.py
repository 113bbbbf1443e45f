"""Post-processing of masks: instance masks and panoptic maps at the original image size."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from models.postprocess import category_id_tensor, class_scores
from util.category_ids import OwnId
from util.files.panoptic_png import LARGEST_THING_ID, encode_id_map

SizeHW = tuple[int, int]

_QUERIES_AT_ONCE = 16  # masks per chunk: 70 MB at 800 x 1333 pixels
# Default scores that segments must exceed, by classification loss. 0.85 is the published threshold.
# A query that is an object with probability 0.36 minimizes its loss with the score 0.85 for the
# cross-entropy (weight 0.1 of no-object), and with 0.35 for the focal loss (alpha 0.25, gamma 2).
SEGMENT_THRESHOLDS = {"ce": 0.85, "focal": 0.35}

_LARGEST_DROPPED_AREA = 4  # segments of this many pixels or fewer are dropped


def coco_is_thing(num_classes: int) -> dict[int, bool]:
    """Thing (True) or stuff (False) by COCO category id: ids up to 90 are things."""
    return {category_id: category_id <= LARGEST_THING_ID for category_id in range(num_classes)}


class PostProcessSegm(nn.Module):
    """Convert mask logits to binary masks and add them to the results of `PostProcess`.

    Args:
        threshold: pixels with a higher probability are inside.
    """

    def __init__(self, threshold: float = 0.5):
        super().__init__()
        self.threshold = threshold

    @torch.no_grad()
    def forward(
        self,
        results: list[dict[str, Tensor]],
        outputs: dict[str, Tensor],
        orig_target_sizes: Tensor,
        max_target_sizes: Tensor,
    ) -> list[dict[str, Tensor]]:
        """Add masks to the detections of a batch.

        Args:
            results: one dict per image; the key ``masks`` is added.
            outputs: ``pred_masks`` (B, Q, H, W), logits of the padded image.
            orig_target_sizes: (B, 2) height and width of the original images.
            max_target_sizes: (B, 2) height and width of the images without padding; the maximum
                height and width are the padded size.

        Returns:
            ``results``, with ``masks`` uint8 (Q, 1, height, width) on the CPU, 1 inside.

        Raises:
            ValueError: if the numbers of results, masks and sizes differ.
        """
        masks = outputs["pred_masks"]
        if masks.dim() == 5:  # (B, Q, 1, H, W)
            masks = masks.squeeze(2)
        lengths = (len(results), len(masks), len(orig_target_sizes), len(max_target_sizes))
        if len(set(lengths)) > 1:
            raise ValueError(
                "results, pred_masks, orig_target_sizes and max_target_sizes must have one entry "
                f"per image, got {lengths}"
            )
        (padded_hw,) = _as_tuples(max_target_sizes.amax(0, keepdim=True))
        sizes = zip(_as_tuples(max_target_sizes), _as_tuples(orig_target_sizes), strict=True)
        for result, image_masks, (size_hw, orig_hw) in zip(results, masks, sizes, strict=True):
            if "queries" in result:
                image_masks = image_masks[result["queries"]]
            parts = [
                self._to_pixels(part, padded_hw, size_hw, orig_hw)
                for part in image_masks.split(_QUERIES_AT_ONCE)
            ]
            result["masks"] = torch.cat(parts)
        return results

    def _to_pixels(
        self, logits: Tensor, padded_hw: SizeHW, size_hw: SizeHW, orig_hw: SizeHW
    ) -> Tensor:
        """Binary masks (q, 1, height, width) of the original image from logits (q, H, W).

        The threshold is applied before the last resizing, as in the original.
        """
        height, width = size_hw
        enlarged = F.interpolate(logits[:, None], size=padded_hw, mode="bilinear")
        inside = enlarged[..., :height, :width].sigmoid() > self.threshold
        # On the CPU, to limit device memory for large images.
        return F.interpolate(inside.byte().cpu(), size=orig_hw, mode="nearest")


class PostProcessPanoptic(nn.Module):
    """Convert class and mask logits to panoptic maps: each pixel belongs to one segment.

    Args:
        is_thing_map: thing (True) or stuff (False) by category id; the default is stuff.
        threshold: queries with a lower score are dropped; see also `SEGMENT_THRESHOLDS`.
        return_scores: add ``score`` to each segment.
        category_ids, cls_loss: as in `models.postprocess.PostProcess`.

    Source: DETR paper, section 4.4.
    """

    category_ids: Tensor | None  # (K - 1,), not in the state dict

    def __init__(
        self,
        is_thing_map: Mapping[int, bool],
        threshold: float = 0.85,
        return_scores: bool = False,
        category_ids: Sequence[OwnId] | None = None,
        cls_loss: str = "ce",
    ):
        super().__init__()
        self.cls_loss = cls_loss
        self.is_thing_map = dict(is_thing_map)
        self.threshold = threshold
        self.return_scores = return_scores
        self.register_buffer("category_ids", category_id_tensor(category_ids), persistent=False)

    @torch.no_grad()
    def forward(
        self,
        outputs: dict[str, Tensor],
        processed_sizes: Tensor | Sequence[SizeHW],
        target_sizes: Tensor | Sequence[SizeHW] | None = None,
        *,
        padded_size: SizeHW | None = None,
    ) -> list[dict[str, Any]]:
        """Compute the panoptic maps of a batch.

        Args:
            outputs: ``pred_logits`` (B, Q, K) and ``pred_masks`` (B, Q, H, W).
            processed_sizes: B pairs (height, width) of the network input, without padding.
            target_sizes: B pairs (height, width) of the maps; None: ``processed_sizes``.
            padded_size: (height, width) of the padded batch, which the masks cover; None: no
                padding, for batches with images of one size.

        Returns:
            for each image ``png_string``, a PNG of segment ids (see `util.files.panoptic_png`), and
            ``segments_info``: dicts with ``id`` (from 0), ``isthing``, ``category_id`` and
            ``area`` in pixels.

        Raises:
            ValueError: if the numbers of images and sizes differ.
        """
        if target_sizes is None:
            target_sizes = processed_sizes
        logits, masks = outputs["pred_logits"], outputs["pred_masks"]
        lengths = (len(logits), len(processed_sizes), len(target_sizes))
        if len(set(lengths)) > 1:
            raise ValueError(
                f"expected one size per image for {lengths[0]} images, got {lengths[1:]}"
            )
        return [
            self._segment_image(*image, padded_size)
            for image in zip(
                logits, masks, _as_tuples(processed_sizes), _as_tuples(target_sizes), strict=True
            )
        ]

    def _segment_image(
        self,
        logits: Tensor,
        masks: Tensor,
        processed_hw: SizeHW,
        target_hw: SizeHW,
        padded_hw: SizeHW | None,
    ) -> dict[str, Any]:
        """Panoptic map of one image from class logits (Q, K) and mask logits (Q, H, W)."""
        keep, scores, labels = self._select(logits)
        masks, scores, labels = masks[keep], scores[keep].cpu(), labels[keep].cpu()
        if self.category_ids is not None:
            labels = self.category_ids.cpu()[labels]
        masks = _upsample_masks(masks, processed_hw, padded_hw or processed_hw)
        id_map = _resize_nearest(self._merge_stuff(_argmax_query(masks), labels), target_hw)
        areas = _areas(id_map, len(labels))
        while (areas <= _LARGEST_DROPPED_AREA).any():
            keep = torch.from_numpy(areas > _LARGEST_DROPPED_AREA)
            masks, scores, labels = masks[keep.to(masks.device)], scores[keep], labels[keep]
            # As in the original, stuff segments are not merged again here.
            id_map = _resize_nearest(_argmax_query(masks), target_hw)
            areas = _areas(id_map, len(labels))
        segments = self._describe(labels.tolist(), areas.tolist(), scores.tolist())
        return {"png_string": encode_id_map(id_map), "segments_info": segments}

    def _select(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries to keep, scores and classes, each (Q,), from logits (Q, K)."""
        if self.cls_loss == "focal":
            scores, labels = class_scores(logits, self.cls_loss).max(-1)
            return scores > self.threshold, scores, labels
        scores, labels = logits.softmax(-1).max(-1)
        return (labels != logits.shape[-1] - 1) & (scores > self.threshold), scores, labels

    def _merge_stuff(self, id_map: np.ndarray, labels: Tensor) -> np.ndarray:
        """Merge all segments of a stuff class into the first."""
        first_of_class: dict[int, int] = {}
        merged = [
            index if self._is_thing(label) else first_of_class.setdefault(label, index)
            for index, label in enumerate(labels.tolist())
        ]
        return np.array(merged, dtype=np.int32)[id_map] if merged else id_map

    def _is_thing(self, label: int) -> bool:
        return bool(self.is_thing_map.get(label, False))

    def _describe(
        self, labels: list[int], areas: list[int], scores: list[float]
    ) -> list[dict[str, Any]]:
        segments: list[dict[str, Any]] = [
            {"id": i, "isthing": self._is_thing(label), "category_id": label, "area": area}
            for i, (label, area) in enumerate(zip(labels, areas, strict=True))
        ]
        if self.return_scores:
            for segment, score in zip(segments, scores, strict=True):
                segment["score"] = round(score, 4)
        return segments


def _as_tuples(sizes: Tensor | Sequence[SizeHW]) -> list[SizeHW]:
    rows = sizes.tolist() if isinstance(sizes, Tensor) else sizes
    return [(int(height), int(width)) for height, width in rows]


def _upsample_masks(masks: Tensor, size_hw: SizeHW, padded_hw: SizeHW) -> Tensor:
    """Resize mask logits (N, H, W) to the padded size, and crop them to the image size."""
    height, width = size_hw
    if len(masks) == 0:
        return masks.new_empty(0, height, width)
    # Half precision would create many ties.
    masks = masks.float() if masks.dtype in (torch.float16, torch.bfloat16) else masks
    enlarged = F.interpolate(masks[:, None], size=padded_hw, mode="bilinear").squeeze(1)
    return enlarged[:, :height, :width]


def _argmax_query(masks: Tensor) -> np.ndarray:
    """Index (H, W) of the query with the largest mask logit (N, H, W); zeros without masks."""
    if len(masks) == 0:
        return np.zeros(masks.shape[1:], dtype=np.int32)
    # Probabilities, not logits: rounding creates ties, which go to the first query, as in the
    # original.
    return masks.softmax(0).argmax(0).int().cpu().numpy()


def _resize_nearest(id_map: np.ndarray, size_hw: SizeHW) -> np.ndarray:
    height, width = size_hw
    if id_map.shape == size_hw:
        return id_map
    resized = Image.fromarray(id_map).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(resized)


def _areas(id_map: np.ndarray, num_segments: int) -> np.ndarray:
    """Area of each segment in pixels; empty without segments."""
    return np.bincount(id_map.ravel(), minlength=num_segments)[:num_segments]
