"""Matching: one query for each object, at the smallest total cost (DETR paper, section 3.1)."""

from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from util.box_ops import box_cxcywh_to_xyxy, elementwise_generalized_box_iou
from util.errors import DivergenceError, UserError
from util.transfer import to_device


class Objects(NamedTuple):
    """The objects of a batch in one row, N of them.

    Attributes:
        labels: (N,) class ids.
        boxes_cxcywh: (N, 4), relative to the image.
        counts: how many belong to each image, in order.
        masks: (n, H, W) of each image, 1 inside; empty where targets have none.
    """

    labels: Tensor
    boxes_cxcywh: Tensor
    counts: list[int]
    masks: list[Tensor]

    @classmethod
    def of(cls, targets: Any) -> "Objects":
        """Join the targets of a batch: dicts with ``labels`` (n,) and ``boxes`` (n, 4) cxcywh.

        Optional are ``masks`` (n, H, W).
        """
        return cls(
            torch.cat([target["labels"] for target in targets]),
            torch.cat([target["boxes"] for target in targets]),
            [len(target["labels"]) for target in targets],
            [target["masks"] for target in targets if "masks" in target],
        )

    def padded_masks(self) -> Tensor:
        """Masks (N, H, W) uint8 of all objects, padded with zeros to the largest H and W."""
        height, width = (max(mask.shape[axis] for mask in self.masks) for axis in (1, 2))
        padded = [
            F.pad(mask.byte(), (0, width - mask.shape[2], 0, height - mask.shape[1]))
            for mask in self.masks
        ]
        return torch.cat(padded)

    def starts(self) -> list[int]:
        """Place of each image's first object in the row."""
        return [0, *accumulate(self.counts[:-1])]


class Matches(NamedTuple):
    """Matched pairs of L decoder layers; every layer has the same number P of them, image by image.

    Attributes:
        query: (L, P) index among the B * Q queries of the batch.
        target: (L, P) index among the N objects of the batch.
    """

    query: Tensor
    target: Tensor


class HungarianMatcher(nn.Module):
    """Optimal assignment between queries and objects.

    The cost of a pair is a weighted sum of minus the predicted probability of the object's class,
    the L1 distance of the boxes (cxcywh, relative), and minus their generalized IoU.

    Args:
        cost_class, cost_bbox, cost_giou: the weights.

    Raises:
        UserError: all weights are zero.

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
    def forward(self, outputs: dict[str, Any], targets: Any) -> list[tuple[Tensor, Tensor]]:
        """Match one set of predictions.

        Args:
            outputs: ``pred_logits`` (B, Q, K) and ``pred_boxes`` (B, Q, 4) cxcywh.
            targets: for each image a dict with ``labels`` (n,) and ``boxes`` (n, 4) cxcywh.

        Returns:
            for each image the indices of the matched queries, ascending, and of their objects: two
            int64 tensors on the CPU of length min(Q, n).

        Raises:
            DivergenceError: a prediction is not finite.
        """
        objects = Objects.of(targets)
        logits, boxes = outputs["pred_logits"][None], outputs["pred_boxes"][None]
        costs = self._costs_on_host(logits, boxes, objects)
        _refuse_non_finite(costs, objects, targets)
        pairs = [_assign(cost[0]) for cost in np.split(costs, objects.starts()[1:], axis=1)]
        return [(torch.from_numpy(query), torch.from_numpy(target)) for query, target in pairs]

    @torch.no_grad()
    def match_layers(
        self, logits: Tensor, boxes_cxcywh: Tensor, objects: Objects, targets: Any
    ) -> Matches:
        """Match the predictions of all decoder layers, with a single transfer to the host.

        In training mode predictions that are not finite are matched as if their costs were 0: their
        loss is not finite either, and all processes have to get that far.

        Args:
            logits: (L, B, Q, K).
            boxes_cxcywh: (L, B, Q, 4).
            objects: the objects of the batch.
            targets: where they come from; only read to name an image in an error.

        Raises:
            DivergenceError: in evaluation mode, a prediction is not finite.
        """
        num_layers, _, num_queries, _ = logits.shape
        costs = self._costs_on_host(logits, boxes_cxcywh, objects)
        if self.training:
            costs = np.nan_to_num(costs, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        else:
            _refuse_non_finite(costs, objects, targets)
        num_pairs = sum(min(count, num_queries) for count in objects.counts)
        pairs = np.empty((2, num_layers, num_pairs), dtype=np.int64)
        first = 0
        for image, (start, count) in enumerate(zip(objects.starts(), objects.counts, strict=True)):
            last = first + min(count, num_queries)
            for layer in range(num_layers):
                query, target = _assign(costs[layer, start : start + count])
                pairs[0, layer, first:last] = query + image * num_queries
                pairs[1, layer, first:last] = target + start
            first = last
        return Matches(*to_device(pairs, logits.device))

    def _costs_on_host(self, logits: Tensor, boxes_cxcywh: Tensor, objects: Objects) -> np.ndarray:
        """Costs (L, N, Q) of each object with the queries of its own image."""
        num_layers, batch_size, num_queries, _ = logits.shape
        if len(objects.labels) == 0:
            return np.empty((num_layers, 0, num_queries))
        image = np.repeat(np.arange(batch_size), objects.counts)
        cost_on_device = self._costs(logits, boxes_cxcywh, objects, to_device(image, logits.device))
        return cost_on_device.cpu().numpy()  # the one wait for the device in a training step

    def _costs(
        self, logits: Tensor, boxes_cxcywh: Tensor, objects: Objects, image: Tensor
    ) -> Tensor:
        """Costs (L, N, Q): only pairs within an image are computed."""
        predicted = boxes_cxcywh.index_select(1, image)  # (L, B, Q, 4) -> (L, N, Q, 4)
        wanted = objects.boxes_cxcywh.to(boxes_cxcywh.dtype)[:, None]  # (N, 1, 4)
        distance = torch.cdist(predicted, wanted, p=1).squeeze(-1)
        giou = elementwise_generalized_box_iou(
            box_cxcywh_to_xyxy(predicted), box_cxcywh_to_xyxy(wanted)
        )
        # Two index tensors around a slice: (N, L, Q).
        score = logits.softmax(-1)[:, image, :, objects.labels].transpose(0, 1)
        return self.cost_bbox * distance - self.cost_class * score - self.cost_giou * giou


def _refuse_non_finite(costs: np.ndarray, objects: Objects, targets: Any) -> None:
    """Raise a DivergenceError that names image and decoder layer if a cost is not finite."""
    finite = np.isfinite(costs)
    if finite.all():
        return
    layer, column, _ = np.argwhere(~finite)[0]
    image = np.repeat(np.arange(len(objects.counts)), objects.counts)[column]
    raise DivergenceError(
        f"class scores or boxes predicted for image {_image_name(targets, image)} are not finite "
        f"(decoder layer {'last' if layer == 0 else layer - 1})"
    )


def _assign(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cheapest assignment of n objects to Q queries from costs (n, Q), ordered by query."""
    # scipy is imported here because models are also loaded, without it, for inference (torch.hub).
    from scipy.optimize import linear_sum_assignment

    # Queries in rows, as in the original: scipy breaks ties by the orientation.
    query, target = linear_sum_assignment(cost.T)
    return query, target


def _image_name(targets: Any, index: int) -> str:
    target = targets[index]
    return str(int(target["image_id"])) if "image_id" in target else f"{index} of the batch"


def build_matcher(args: Any) -> HungarianMatcher:
    """The matcher with the weights of the flags ``--set_cost_{class,bbox,giou}``."""
    return HungarianMatcher(args.set_cost_class, args.set_cost_bbox, args.set_cost_giou)
