"""Bipartite matching of queries and objects (DETR paper, section 3.1)."""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from util.box_ops import box_cxcywh_to_xyxy, elementwise_generalized_box_iou
from util.errors import DivergenceError, UserError
from util.tensor_ops import to_device

# Matched pairs of one decoder layer: for each image the indices of the matched queries and objects,
# two int64 tensors of equal length on the CPU.
Indices = list[tuple[Tensor, Tensor]]


class Objects(NamedTuple):
    """All N objects of a batch, image by image.

    Attributes:
        labels: (N,) class ids.
        boxes_cxcywh: (N, 4) in [0, 1], relative to the image.
        counts: number of objects in each image.
    """

    labels: Tensor
    boxes_cxcywh: Tensor
    counts: list[int]

    @classmethod
    def from_targets(cls, targets: Any) -> "Objects":
        """Concatenate the ``labels`` (n,) and ``boxes`` (n, 4) cxcywh of the targets of a batch."""
        return cls(
            torch.cat([target["labels"] for target in targets]),
            torch.cat([target["boxes"] for target in targets]),
            [len(target["labels"]) for target in targets],
        )


class MatchedPairs(NamedTuple):
    """Matched pairs of L decoder layers, P per layer, with indices into the whole batch.

    Attributes:
        query: (L, P) index of the query: image * Q + query.
        target: (L, P) index of the object among the N objects of the batch.
    """

    query: Tensor
    target: Tensor

    @classmethod
    def from_indices(
        cls,
        indices: Sequence[Indices],
        num_queries: int,
        counts: Sequence[int],
        device: torch.device,
    ) -> "MatchedPairs":
        """Convert the matched pairs of layers with equal numbers of pairs.

        Args:
            indices: pairs of each layer, on the CPU.
            num_queries: number of queries per image.
            counts: number of objects in each image.
            device: device of the result. The copy to a GPU is asynchronous.
        """
        num_layers, batch_size = len(indices), len(counts)
        pairs = [pair for layer in indices for pair in layer]
        sizes = [len(query) for query, _ in pairs]
        first_query = np.tile(np.arange(batch_size) * num_queries, num_layers)
        first_target = np.tile(starts(counts), num_layers)
        query = torch.cat([query for query, _ in pairs]).numpy() + np.repeat(first_query, sizes)
        target = torch.cat([target for _, target in pairs]).numpy() + np.repeat(first_target, sizes)
        shape = 2, num_layers, sum(sizes) // num_layers
        return cls(*to_device(np.stack((query, target)).reshape(shape), device))


def starts(counts: Sequence[int]) -> list[int]:
    """Index of the first object of each image among all objects of the batch."""
    return [0, *accumulate(counts[:-1])]


class HungarianMatcher(nn.Module):
    """Optimal bipartite matching of queries and objects (Hungarian algorithm).

    The cost of a pair is the weighted sum of the negative probability of the object's class, the L1
    distance of the boxes (cxcywh in [0, 1]), and their negative generalized IoU.

    Args:
        cost_class, cost_bbox, cost_giou: weights of the three costs.

    Raises:
        UserError: if all weights are zero.

    Source: DETR paper, section 3.1 and appendix A.2.
    """

    def __init__(self, cost_class: float = 1, cost_bbox: float = 1, cost_giou: float = 1):
        super().__init__()
        if cost_class == 0 and cost_bbox == 0 and cost_giou == 0:
            raise UserError(
                "all matching costs are zero (--set_cost_class, --set_cost_bbox, --set_cost_giou)"
            )
        self.cost_class = cost_class
        self.cost_bbox = cost_bbox
        self.cost_giou = cost_giou

    @torch.no_grad()
    def forward(self, outputs: dict[str, Any], targets: Any) -> Indices:
        """Match the predictions of one decoder layer.

        Args:
            outputs: ``pred_logits`` (B, Q, K) and ``pred_boxes`` (B, Q, 4) cxcywh.
            targets: for each image a dict with ``labels`` (n,) and ``boxes`` (n, 4) cxcywh.

        Returns:
            for each image two int64 tensors on the CPU, both of length min(Q, n): the indices of
            the matched queries in ascending order, and the indices of their objects.

        Raises:
            DivergenceError: if a prediction is not finite.
        """
        objects = Objects.from_targets(targets)
        logits, boxes = outputs["pred_logits"][None], outputs["pred_boxes"][None]
        costs = self._costs_on_host(logits, boxes, objects)
        _check_finite(costs, objects, targets)
        return _assign_images(costs[0], objects.counts)

    @torch.no_grad()
    def match_stacked(
        self, logits: Tensor, boxes_cxcywh: Tensor, objects: Objects, targets: Any
    ) -> list[Indices]:
        """Match the predictions of all decoder layers, with one transfer to the host.

        In training mode non-finite costs are replaced by 0: the loss or gradient of these
        predictions is not finite either, so the step is skipped on all ranks.

        Args:
            logits: (L, B, Q, K).
            boxes_cxcywh: (L, B, Q, 4).
            objects: the objects of the batch.
            targets: the targets of the batch; used in error messages only.

        Returns:
            for each layer the result of `forward`.

        Raises:
            DivergenceError: in evaluation mode, if a prediction is not finite.
        """
        costs = self._costs_on_host(logits, boxes_cxcywh, objects)
        if self.training:
            costs = np.nan_to_num(costs, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        else:
            _check_finite(costs, objects, targets)
        return [_assign_images(layer, objects.counts) for layer in costs]

    def _costs_on_host(self, logits: Tensor, boxes_cxcywh: Tensor, objects: Objects) -> np.ndarray:
        """Costs (L, N, Q) as a NumPy array; see `_costs`."""
        num_layers, batch_size, num_queries, _ = logits.shape
        if len(objects.labels) == 0:
            return np.empty((num_layers, 0, num_queries))
        image = np.repeat(np.arange(batch_size), objects.counts)
        cost_on_device = self._costs(logits, boxes_cxcywh, objects, to_device(image, logits.device))
        return cost_on_device.cpu().numpy()  # host-device synchronization

    def _costs(
        self, logits: Tensor, boxes_cxcywh: Tensor, objects: Objects, image: Tensor
    ) -> Tensor:
        """Costs (L, N, Q) of each object and query; ``image`` (N,) is the image of each object."""
        predicted = boxes_cxcywh.index_select(1, image)  # (L, B, Q, 4) -> (L, N, Q, 4)
        target = objects.boxes_cxcywh.to(boxes_cxcywh.dtype)[:, None]  # (N, 1, 4)
        distance = torch.cdist(predicted, target, p=1).squeeze(-1)
        giou = elementwise_generalized_box_iou(
            box_cxcywh_to_xyxy(predicted), box_cxcywh_to_xyxy(target)
        )
        # Advanced indexing puts N first: (N, L, Q).
        score = self._class_scores(logits)[:, image, :, objects.labels].transpose(0, 1)
        return self.cost_bbox * distance - self.cost_class * score - self.cost_giou * giou

    def _class_scores(self, logits: Tensor) -> Tensor:
        """Score (..., K) of each class for the matching, from logits (..., K)."""
        return logits.softmax(-1)


# `HungarianMatcher.match_stacked` replaces this method, unless a subclass overrides it.
_BASE_FORWARD = HungarianMatcher.forward


def match_layers(
    matcher: Any,
    layers: Sequence[dict[str, Any]],
    targets: Any,
    stacked: tuple[Tensor, Tensor, Objects] | None,
) -> list[Indices]:
    """Match all decoder layers.

    Args:
        matcher: called with the outputs of a layer and the targets; returns the matched pairs. A
            `HungarianMatcher` whose ``forward`` is not overridden matches all layers in one call.
        layers: the outputs of each layer.
        targets: the targets of the batch.
        stacked: logits (L, B, Q, K) and boxes (L, B, Q, 4) of all layers, and the objects of the
            batch; None if the layers have different shapes.
    """
    is_hungarian = isinstance(matcher, HungarianMatcher)
    if stacked is not None and is_hungarian and _has_base_forward(matcher):
        return matcher.match_stacked(*stacked, targets)
    without_aux = [{k: v for k, v in layer.items() if k != "aux_outputs"} for layer in layers]
    return [_as_indices(matcher(layer, targets)) for layer in without_aux]


def _has_base_forward(matcher: HungarianMatcher) -> bool:
    return getattr(matcher.forward, "__func__", None) is _BASE_FORWARD


def matched_objects(name: str, targets: Any, indices: Indices) -> Tensor:
    """Values of the target key ``name`` for all matched pairs, image by image."""
    return torch.cat([t[name][objects] for t, (_, objects) in zip(targets, indices, strict=True)])


def image_and_index(indices: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Concatenate the indices of each image: image numbers (P,) and indices (P,)."""
    image = [torch.full_like(index, number) for number, index in enumerate(indices)]
    return torch.cat(image), torch.cat(list(indices))


def _as_indices(pairs: Sequence[tuple[Any, Any]]) -> Indices:
    """Convert the result of a matcher to int64 tensors on the CPU."""
    as_index = partial(torch.as_tensor, dtype=torch.int64, device="cpu")
    return [(as_index(query), as_index(target)) for query, target in pairs]


def _check_finite(costs: np.ndarray, objects: Objects, targets: Any) -> None:
    """Raise a DivergenceError with image and decoder layer if a cost is not finite."""
    finite = np.isfinite(costs)
    if finite.all():
        return
    layer, column, _ = np.argwhere(~finite)[0]
    image = np.repeat(np.arange(len(objects.counts)), objects.counts)[column]
    raise DivergenceError(
        f"class scores or boxes predicted for image {_image_name(targets, image)} are not finite "
        f"(decoder layer {'last' if layer == 0 else layer - 1})"
    )


def _assign_images(costs: np.ndarray, counts: Sequence[int]) -> Indices:
    """Optimal assignment in each image, from the costs (N, Q) of all objects of the batch."""
    images = zip(starts(counts), counts, strict=True)
    pairs = [_assign(costs[start : start + count]) for start, count in images]
    return [(torch.from_numpy(query), torch.from_numpy(target)) for query, target in pairs]


def _assign(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Optimal assignment for costs (n, Q): query and object indices, ordered by query."""
    # Imported here: inference (torch.hub) does not need scipy.
    from scipy.optimize import linear_sum_assignment

    # Queries in rows, as in the original: the orientation decides ties.
    query, target = linear_sum_assignment(cost.T)
    return query, target


def _image_name(targets: Any, index: int) -> str:
    target = targets[index]
    return str(int(target["image_id"])) if "image_id" in target else f"{index} of the batch"


def build_matcher(args: Any) -> HungarianMatcher:
    """Build the matcher with the weights ``--set_cost_{class,bbox,giou}``."""
    return HungarianMatcher(args.set_cost_class, args.set_cost_bbox, args.set_cost_giou)
