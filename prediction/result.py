"""The prediction for one image, as arrays and class names."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False, kw_only=True)
class Prediction:
    """Detections in an image, sorted by descending score. ``len()`` is their number N.

    Attributes:
        size_hw: height and width of the upright image in pixels.
        boxes_xyxy: float32 (N, 4) in pixels of the upright image; boxes can exceed it slightly.
        scores: float32 (N,) in [0, 1].
        category_ids: (N,) category ids, as in the training annotation file.
        names: [N] class names.
        queries: int64 (N,) index of the object query of each detection.
        masks: bool (N, height, width), True inside the object; None for a model without masks.
        segment_map: int32 (height, width) segment id of each pixel, 0 for void; None unless the
            model is panoptic. Detections of a panoptic model are things only.
        segments: dicts with ``id``, ``category_id``, ``name``, ``isthing``, ``score`` and ``area``
            in pixels; empty unless the model is panoptic.
    """

    size_hw: tuple[int, int]
    boxes_xyxy: np.ndarray
    scores: np.ndarray
    category_ids: np.ndarray
    names: Sequence[str]
    queries: np.ndarray
    masks: np.ndarray | None = None
    segment_map: np.ndarray | None = None
    segments: Sequence[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)
