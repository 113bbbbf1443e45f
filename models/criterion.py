"""The set prediction loss (DETR paper, section 3.1 and appendix A.2)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from util.box_ops import box_cxcywh_to_xyxy, elementwise_generalized_box_iou
from util.distributed import get_world_size, is_dist_avail_and_initialized
from util.tensor_ops import accuracy
from util.transfer import to_device

from .matcher import HungarianMatcher, Matches, Objects


class _Predictions(NamedTuple):
    """Predictions of all decoder layers: the last layer first, then the auxiliary ones in order.

    Attributes:
        logits: (L, B, Q, K), float32 or wider.
        boxes_cxcywh: (L, B, Q, 4), relative to the image.
    """

    logits: Tensor
    boxes_cxcywh: Tensor

    @classmethod
    def of(cls, outputs: dict[str, Any]) -> "_Predictions":
        layers = [outputs, *outputs.get("aux_outputs", [])]
        logits = _at_least_float32(torch.stack([layer["pred_logits"] for layer in layers]))
        boxes = _at_least_float32(torch.stack([layer["pred_boxes"] for layer in layers]))
        return cls(logits, boxes)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class SetCriterion(nn.Module):
    """Loss between the predictions of a batch and its objects, after an optimal matching.

    All decoder layers are matched from one cost computation, and each loss term is computed for all
    layers at once.

    Args:
        num_classes: number of object classes; the class of this index is "no object".
        matcher: pairs predictions with objects.
        weight_dict: weight of each loss by name. Not applied here; the training loop does.
        eos_coef: weight of the no-object class in the classification loss.
        losses: the terms to compute, out of ``labels``, ``boxes``, ``cardinality``.

    Raises:
        ValueError: an unknown term.
    """

    empty_weight: Tensor

    def __init__(
        self,
        num_classes: int,
        matcher: HungarianMatcher,
        weight_dict: dict[str, float],
        eos_coef: float,
        losses: Sequence[str],
    ):
        super().__init__()
        self._terms = {
            "labels": self._loss_labels,
            "boxes": self._loss_boxes,
            "cardinality": self._cardinality_error,
        }
        unknown = sorted(set(losses) - set(self._terms))
        if unknown:
            raise ValueError(f"unknown losses {unknown}, the known ones are {list(self._terms)}")
        self.num_classes = num_classes
        self.matcher = matcher
        self.weight_dict = weight_dict
        self.eos_coef = eos_coef
        self.losses = list(losses)
        empty_weight = torch.ones(num_classes + 1)
        empty_weight[-1] = eos_coef
        self.register_buffer("empty_weight", empty_weight)

    def forward(
        self, outputs: dict[str, Any], targets: Sequence[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Compute the losses.

        Args:
            outputs: ``pred_logits`` (B, Q, K), ``pred_boxes`` (B, Q, 4) cxcywh relative to the
                image, and optionally ``aux_outputs``, a list of the same for the earlier decoder
                layers.
            targets: for each image ``labels`` (n,) below ``num_classes`` and ``boxes`` (n, 4)
                cxcywh.

        Returns:
            scalars: ``loss_ce``, ``loss_bbox``, ``loss_giou``, ``cardinality_error``, the same with
            ``_0``, ``_1``, … for the auxiliary layers, and ``class_error`` in percent (100 where
            the batch has no objects, which `engine` leaves out of its averages).

        Raises:
            DivergenceError: a prediction is not finite.
        """
        predictions = _Predictions.of(outputs)
        objects = Objects.of(targets)
        matches = self.matcher.match_layers(
            predictions.logits, predictions.boxes_cxcywh, objects, targets
        )
        by_layer: dict[str, Sequence[Tensor]] = {}
        for name in self.losses:
            by_layer.update(self._terms[name](predictions, objects, matches))
        return _name_by_layer(by_layer, len(predictions.logits))

    def _loss_labels(
        self, predictions: _Predictions, objects: Objects, matches: Matches
    ) -> dict[str, Sequence[Tensor]]:
        """Cross-entropy over all queries, weighted by class; error rate of the matched ones."""
        num_layers, batch_size, num_queries, num_logits = predictions.logits.shape
        matched_labels = objects.labels[matches.target]  # (L, P)
        classes = matched_labels.new_full((num_layers, batch_size * num_queries), self.num_classes)
        classes.scatter_(1, matches.query, matched_labels)
        weight = self.empty_weight.to(predictions.logits.dtype)
        weighted = F.cross_entropy(
            predictions.logits.view(-1, num_logits), classes.view(-1), weight, reduction="none"
        )
        loss = weighted.view(num_layers, -1).sum(1) / weight[classes].sum(1)
        with torch.no_grad():
            last_layer = predictions.logits[0].flatten(0, 1)
            error = 100 - accuracy(last_layer[matches.query[0]], matched_labels[0])[0]
        return {"loss_ce": loss.unbind(), "class_error": [error]}

    def _loss_boxes(
        self, predictions: _Predictions, objects: Objects, matches: Matches
    ) -> dict[str, Sequence[Tensor]]:
        """L1 and generalized IoU losses of the matched pairs, divided by the number of objects."""
        index = matches.query[..., None].expand(-1, -1, 4)
        predicted = predictions.boxes_cxcywh.flatten(1, 2).gather(1, index)  # (L, P, 4)
        wanted = objects.boxes_cxcywh[matches.target].to(predicted.dtype)
        num_boxes = _mean_number_of_objects(objects)
        distance = (predicted - wanted).abs().sum((1, 2)) / num_boxes
        giou = elementwise_generalized_box_iou(
            box_cxcywh_to_xyxy(predicted), box_cxcywh_to_xyxy(wanted)
        )
        return {
            "loss_bbox": distance.unbind(),
            "loss_giou": ((1 - giou).sum(1) / num_boxes).unbind(),
        }

    @torch.no_grad()
    def _cardinality_error(
        self, predictions: _Predictions, objects: Objects, matches: Matches
    ) -> dict[str, Sequence[Tensor]]:
        """Mean difference between predicted and true number of objects: for the log, no loss."""
        logits = predictions.logits
        # An object is predicted where "no object" is not the first of the largest logits.
        predicted = (logits[..., :-1].amax(-1) >= logits[..., -1]).sum(-1)  # (L, B)
        counts = to_device(torch.tensor(objects.counts, dtype=logits.dtype), logits.device)
        return {"cardinality_error": (predicted - counts).abs().mean(1).unbind()}


def _mean_number_of_objects(objects: Objects) -> Tensor | float:
    """Objects per process, at least 1: the divisor of the box losses."""
    if not is_dist_avail_and_initialized():
        return max(float(len(objects.labels)), 1.0)
    count = torch.full((), float(len(objects.labels)), device=objects.labels.device)
    torch.distributed.all_reduce(count)
    return (count / get_world_size()).clamp(min=1)


def _name_by_layer(by_layer: dict[str, Sequence[Tensor]], num_layers: int) -> dict[str, Tensor]:
    """One dict, layer by layer: the last layer has no suffix, the others ``_0``, ``_1``, …"""
    suffixes = ["", *(f"_{i}" for i in range(num_layers - 1))]
    return {
        name + suffix: values[layer]
        for layer, suffix in enumerate(suffixes)
        for name, values in by_layer.items()
        if layer < len(values)
    }
