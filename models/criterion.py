"""The set prediction loss (DETR paper, section 3.1, section 4.4 and appendix A.2)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from util.box_ops import box_cxcywh_to_xyxy, elementwise_generalized_box_iou
from util.distributed import get_world_size, is_dist_avail_and_initialized
from util.tensor_ops import accuracy
from util.transfer import to_device

from .fast.deferred_masks import DeferredMasks, select_queries
from .mask_losses import dice_loss, sigmoid_focal_loss
from .matcher import HungarianMatcher, Matches, Objects


class _Predictions(NamedTuple):
    """Predictions of all decoder layers: the last layer first, then the auxiliary ones in order.

    Attributes:
        logits: (L, B, Q, K), float32 or wider.
        boxes_cxcywh: (L, B, Q, 4), relative to the image.
        masks: logits (B, Q, H, W) of the last layer, where there are masks.
    """

    logits: Tensor
    boxes_cxcywh: Tensor
    masks: Tensor | DeferredMasks | None

    @classmethod
    def of(cls, outputs: dict[str, Any]) -> "_Predictions":
        layers = [outputs, *outputs.get("aux_outputs", [])]
        logits = _at_least_float32(torch.stack([layer["pred_logits"] for layer in layers]))
        boxes = _at_least_float32(torch.stack([layer["pred_boxes"] for layer in layers]))
        return cls(logits, boxes, outputs.get("pred_masks"))


class _Pairs(NamedTuple):
    """What was matched.

    Attributes:
        objects: the objects of the batch.
        matches: their queries, for each decoder layer.
        num_boxes: the divisor of the losses of pairs, see `mean_number_of_objects`.
    """

    objects: Objects
    matches: Matches
    num_boxes: Tensor | float


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
        losses: the terms to compute, out of ``labels``, ``boxes``, ``masks``, ``cardinality``.

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
            "masks": self._loss_masks,
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
        self,
        outputs: dict[str, Any],
        targets: Sequence[dict[str, Tensor]],
        num_boxes: Tensor | float | None = None,
    ) -> dict[str, Tensor]:
        """Compute the losses.

        In evaluation mode processes do not wait for each other: they may have different numbers of
        batches.

        Args:
            outputs: ``pred_logits`` (B, Q, K), ``pred_boxes`` (B, Q, 4) cxcywh relative to the
                image, and optionally ``aux_outputs``, a list of the same for the earlier decoder
                layers; for masks ``pred_masks``, logits (B, Q, H, W).
            targets: for each image ``labels`` (n,) below ``num_classes`` and ``boxes`` (n, 4)
                cxcywh; for masks ``masks`` (n, H, W), 1 inside.
            num_boxes: divisor of the losses of matched pairs. By default the objects of the batch,
                in training mode `mean_number_of_objects` over the batches of all processes.

        Returns:
            scalars: ``loss_ce``, ``loss_bbox``, ``loss_giou``, ``cardinality_error``, the same with
            ``_0``, ``_1``, … for the auxiliary layers, ``class_error`` in percent (100 where the
            batch has no objects, which `engine` leaves out of its averages), and with masks
            ``loss_mask`` and ``loss_dice``.

        Raises:
            DivergenceError: a prediction is not finite.
            ValueError: masks are asked for and not there.
        """
        predictions = _Predictions.of(outputs)
        objects = Objects.of(targets)
        matches = self.matcher.match_layers(
            predictions.logits, predictions.boxes_cxcywh, objects, targets
        )
        if num_boxes is None:
            num_boxes = self._number_of_objects(objects)
        if isinstance(num_boxes, Tensor):
            num_boxes = num_boxes.to(predictions.logits.dtype)
        pairs = _Pairs(objects, matches, num_boxes)
        by_layer: dict[str, Sequence[Tensor]] = {}
        for name in self.losses:
            by_layer.update(self._terms[name](predictions, pairs))
        return _name_by_layer(by_layer, len(predictions.logits))

    def _number_of_objects(self, objects: Objects) -> Tensor | float:
        count = len(objects.labels)
        if self.training:
            return mean_number_of_objects(count, objects.labels.device)
        return max(float(count), 1.0)

    def _loss_labels(self, predictions: _Predictions, pairs: _Pairs) -> dict[str, Sequence[Tensor]]:
        """Cross-entropy over all queries, weighted by class; error rate of the matched ones."""
        matches = pairs.matches
        num_layers, batch_size, num_queries, num_logits = predictions.logits.shape
        matched_labels = pairs.objects.labels[matches.target]  # (L, P)
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

    def _loss_boxes(self, predictions: _Predictions, pairs: _Pairs) -> dict[str, Sequence[Tensor]]:
        """L1 and generalized IoU losses of the matched pairs, divided by the number of objects."""
        index = pairs.matches.query[..., None].expand(-1, -1, 4)
        predicted = predictions.boxes_cxcywh.flatten(1, 2).gather(1, index)  # (L, P, 4)
        wanted = pairs.objects.boxes_cxcywh[pairs.matches.target].to(predicted.dtype)
        distance = (predicted - wanted).abs().sum((1, 2)) / pairs.num_boxes
        giou = elementwise_generalized_box_iou(
            box_cxcywh_to_xyxy(predicted), box_cxcywh_to_xyxy(wanted)
        )
        return {
            "loss_bbox": distance.unbind(),
            "loss_giou": ((1 - giou).sum(1) / pairs.num_boxes).unbind(),
        }

    def _loss_masks(self, predictions: _Predictions, pairs: _Pairs) -> dict[str, Sequence[Tensor]]:
        """Focal and dice losses of the masks matched in the last layer, at the targets' size.

        Padding counts as outside of every object, as it did for the released weights.
        """
        if predictions.masks is None or not pairs.objects.masks:
            raise ValueError('the loss "masks" needs "pred_masks" and targets with "masks"')
        matches, num_boxes = pairs.matches, pairs.num_boxes
        logits = _at_least_float32(select_queries(predictions.masks, matches.query[0]))
        wanted = pairs.objects.padded_masks()[matches.target[0]].to(logits.dtype)
        resized = F.interpolate(logits[:, None], size=wanted.shape[-2:], mode="bilinear")
        resized, wanted = resized.flatten(1), wanted.flatten(1)  # (P, H * W)
        return {
            "loss_mask": [sigmoid_focal_loss(resized, wanted, num_boxes)],
            "loss_dice": [dice_loss(resized, wanted, num_boxes)],
        }

    @torch.no_grad()
    def _cardinality_error(
        self, predictions: _Predictions, pairs: _Pairs
    ) -> dict[str, Sequence[Tensor]]:
        """Mean difference between predicted and true number of objects: for the log, no loss."""
        logits = predictions.logits
        # An object is predicted where "no object" is not the first of the largest logits.
        predicted = (logits[..., :-1].amax(-1) >= logits[..., -1]).sum(-1)  # (L, B)
        counts = to_device(torch.tensor(pairs.objects.counts, dtype=logits.dtype), logits.device)
        return {"cardinality_error": (predicted - counts).abs().mean(1).unbind()}


def mean_number_of_objects(
    own_count: int, device: torch.device, num_batches: int = 1
) -> Tensor | float:
    """Objects in a batch of a training step, on average over those of all processes, at least 1.

    All processes must ask.

    Args:
        own_count: objects in the batches of this process together.
        device: where the losses are.
        num_batches: how many batches of the step each process has.
    """
    if not is_dist_avail_and_initialized():
        return max(own_count / num_batches, 1.0)
    count = torch.full((), float(own_count), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(count)
    return (count / (num_batches * get_world_size())).clamp(min=1)


def _name_by_layer(by_layer: dict[str, Sequence[Tensor]], num_layers: int) -> dict[str, Tensor]:
    """One dict, layer by layer: the last layer has no suffix, the others ``_0``, ``_1``, …"""
    suffixes = ["", *(f"_{i}" for i in range(num_layers - 1))]
    return {
        name + suffix: values[layer]
        for layer, suffix in enumerate(suffixes)
        for name, values in by_layer.items()
        if layer < len(values)
    }
