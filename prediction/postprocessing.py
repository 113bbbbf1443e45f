"""Convert model outputs to predictions with class names."""

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.source import LoadedModel
from models.panoptic import PostProcessPanoptic, PostProcessSegm
from models.postprocess import PostProcess
from prediction.result import Prediction
from util.files.panoptic_png import VOID_ID, decode_id_map

SizeHW = tuple[int, int]
Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Selection:
    """Criteria for the detections and segments to keep.

    Attributes:
        threshold: minimum score of detections.
        segment_threshold: score that segments must exceed.
        category_ids: classes to keep; None: all.
    """

    threshold: float
    segment_threshold: float
    category_ids: Collection[int] | None = None

    def allows(self, category_id: int) -> bool:
        """Whether detections of a class are kept."""
        return self.category_ids is None or category_id in self.category_ids


def to_prediction(
    loaded: LoadedModel, outputs: Outputs, network_hw: SizeHW, size_hw: SizeHW, selection: Selection
) -> Prediction:
    """Convert the outputs for one image.

    Args:
        outputs: ``pred_logits`` (1, Q, K), ``pred_boxes`` (1, Q, 4) and, of models with masks,
            ``pred_masks`` (1, Q, H, W).
        size_hw: height and width of the original image.
        selection: criteria for the detections and segments to keep.
    """
    to_detections = PostProcess(loaded.category_ids, loaded.cls_loss, one_per_query=True)
    results = to_detections(outputs, torch.tensor([size_hw], device=outputs["pred_boxes"].device))
    result = {name: values.cpu() for name, values in results[0].items()}
    queries = _chosen_queries(loaded, result["scores"], result["labels"], selection)
    category_ids = result["labels"][queries].tolist()
    has_masks = "pred_masks" in outputs
    return Prediction(
        size_hw=size_hw,
        boxes_xyxy=result["boxes"][queries].float().numpy(),
        scores=result["scores"][queries].float().numpy(),
        category_ids=_own_ids(loaded, category_ids),
        names=[loaded.name_of(category_id) for category_id in category_ids],
        queries=queries.numpy(),
        masks=_masks(outputs, queries, network_hw, size_hw) if has_masks else None,
        **(
            _segments(loaded, outputs, network_hw, size_hw, selection) if loaded.is_panoptic else {}
        ),
    )


def _own_ids(loaded: LoadedModel, category_ids: Sequence[int]) -> np.ndarray:
    """Category ids (N,) as in the user's files: int64, or dtype object if some are strings."""
    own_ids = loaded.rows().text_ids()
    if not own_ids:
        return np.array(category_ids, dtype=np.int64)
    return np.array([own_ids.get(i, i) for i in category_ids], dtype=object)


def _chosen_queries(
    loaded: LoadedModel, scores: Tensor, category_ids: Tensor, selection: Selection
) -> Tensor:
    """Indices of the queries that are kept, by descending score."""
    ranked = scores.argsort(descending=True, stable=True).tolist()

    def is_kept(query: int) -> bool:
        """Whether the class and the score of a query are in the selection."""
        category_id = int(category_ids[query])
        is_object = not loaded.is_panoptic or loaded.is_thing.get(category_id, False)
        return (
            is_object
            and loaded.has_class(category_id)
            and selection.allows(category_id)
            and float(scores[query]) >= selection.threshold
        )

    return torch.tensor([query for query in ranked if is_kept(query)], dtype=torch.int64)


def _masks(outputs: Outputs, queries: Tensor, network_hw: SizeHW, size_hw: SizeHW) -> np.ndarray:
    """Masks (N, height, width) of queries at the size of the original image."""
    if not len(queries):
        return np.zeros((0, *size_hw), dtype=bool)
    masks = outputs["pred_masks"]
    chosen = {"pred_masks": masks[:, queries.to(masks.device)].float()}
    sizes = torch.tensor([size_hw]), torch.tensor([network_hw])
    inside: np.ndarray = PostProcessSegm()([{}], chosen, *sizes)[0]["masks"][:, 0].numpy()
    return inside.astype(bool)


def _segments(
    loaded: LoadedModel, outputs: Outputs, network_hw: SizeHW, size_hw: SizeHW, selection: Selection
) -> dict[str, Any]:
    """Segment map and segments of a panoptic model. Ids start at 1; 0 is void."""
    to_segments = PostProcessPanoptic(
        loaded.is_thing,
        selection.segment_threshold,
        return_scores=True,
        category_ids=loaded.category_ids,
        cls_loss=loaded.cls_loss,
    )
    result = to_segments(outputs, [network_hw], [size_hw])[0]
    found: list[dict[str, Any]] = result["segments_info"]
    id_map = decode_id_map(io.BytesIO(result["png_string"]))
    new_ids = np.full(len(found) + 1, VOID_ID, dtype=np.int32)
    segments: list[dict[str, Any]] = []
    own_ids = loaded.rows().text_ids()
    for segment in found:
        category_id = segment["category_id"]
        if loaded.has_class(category_id) and selection.allows(category_id):
            new_ids[segment["id"]] = len(segments) + 1
            own_id = own_ids.get(category_id, category_id)
            named = {"category_id": own_id, "name": loaded.name_of(category_id)}
            segments.append({**segment, "id": len(segments) + 1, **named})
    return {"segment_map": new_ids[id_map], "segments": segments}
