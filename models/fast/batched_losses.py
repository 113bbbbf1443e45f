"""Losses of all decoder layers at once: as in `SetCriterion`, with fewer kernel launches.

The methods ``loss_labels``, ``loss_boxes`` and ``loss_cardinality`` of
`models.criterion.SetCriterion` define the losses; tests compare these functions with them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.matcher import Indices, MatchedPairs, Objects
from util.box_ops import box_cxcywh_to_xyxy, elementwise_generalized_box_iou
from util.tensor_ops import accuracy, at_least_float32, to_device


class DecoderLayers(NamedTuple):
    """Predictions of L decoder layers, the last layer first, and the objects of the batch.

    Attributes:
        logits: (L, B, Q, K), float32 or wider.
        boxes_cxcywh: (L, B, Q, 4) in [0, 1], relative to the image.
        objects: the objects of the batch.
    """

    logits: Tensor
    boxes_cxcywh: Tensor
    objects: Objects

    @classmethod
    def stack(cls, layers: Sequence[Mapping[str, Any]], targets: Any) -> "DecoderLayers | None":
        """Stack the layers; None if logits or boxes are missing or differ in shape.

        Args:
            layers: ``pred_logits`` (B, Q, K) and ``pred_boxes`` (B, Q, 4) of each layer.
            targets: ``labels`` (n,) and ``boxes`` (n, 4) cxcywh of each image.
        """
        logits = [layer.get("pred_logits") for layer in layers]
        boxes = [layer.get("pred_boxes") for layer in layers]
        if not (_same_shape(logits) and _same_shape(boxes)):
            return None
        return cls(
            at_least_float32(torch.stack(logits)),  # type: ignore[arg-type]
            at_least_float32(torch.stack(boxes)),  # type: ignore[arg-type]
            Objects.from_targets(targets),
        )

    def matches(self, indices: Sequence[Indices]) -> MatchedPairs | None:
        """Matched pairs of all layers; None if the layers differ in their number of pairs."""
        if len({sum(len(query) for query, _ in layer) for layer in indices}) > 1:
            return None
        num_queries, counts = self.logits.shape[2], self.objects.counts
        return MatchedPairs.from_indices(indices, num_queries, counts, self.logits.device)


def loss_labels(
    layers: DecoderLayers, matches: MatchedPairs, num_classes: int, empty_weight: Tensor
) -> list[dict[str, Tensor]]:
    """Classification loss.

    Args:
        layers: predictions and objects.
        matches: matched pairs of all layers.
        num_classes: number of object classes; index ``num_classes`` is the no-object class.
        empty_weight: (K,) weight of each class in the cross-entropy.

    Returns:
        ``loss_ce`` of each layer, and ``class_error`` in percent of the last decoder layer.
    """
    num_layers, batch_size, num_queries, num_logits = layers.logits.shape
    matched_labels = layers.objects.labels[matches.target]  # (L, P)
    classes = matched_labels.new_full((num_layers, batch_size * num_queries), num_classes)
    classes.scatter_(1, matches.query, matched_labels)
    weight = empty_weight.to(layers.logits.dtype)
    weighted = F.cross_entropy(
        layers.logits.view(-1, num_logits), classes.view(-1), weight, reduction="none"
    )
    loss = weighted.view(num_layers, -1).sum(1) / weight[classes].sum(1)
    losses = [{"loss_ce": layer_loss} for layer_loss in loss.unbind()]
    last_layer = layers.logits[0].flatten(0, 1)
    correct = accuracy(last_layer[matches.query[0]], matched_labels[0])[0]
    losses[0]["class_error"] = 100 - correct
    return losses


def loss_boxes(
    layers: DecoderLayers, matches: MatchedPairs, num_boxes: Tensor | float
) -> list[dict[str, Tensor]]:
    """``loss_bbox`` and ``loss_giou`` of each layer."""
    index = matches.query[..., None].expand(-1, -1, 4)
    predicted = layers.boxes_cxcywh.flatten(1, 2).gather(1, index)  # (L, P, 4)
    target = layers.objects.boxes_cxcywh[matches.target].to(predicted.dtype)
    distance = (predicted - target).abs().sum((1, 2)) / num_boxes
    giou = elementwise_generalized_box_iou(
        box_cxcywh_to_xyxy(predicted), box_cxcywh_to_xyxy(target)
    )
    giou_loss = (1 - giou).sum(1) / num_boxes
    return [
        {"loss_bbox": bbox, "loss_giou": giou}
        for bbox, giou in zip(distance.unbind(), giou_loss.unbind(), strict=True)
    ]


@torch.no_grad()
def loss_cardinality(layers: DecoderLayers) -> list[dict[str, Tensor]]:
    """``cardinality_error`` of each layer."""
    logits = layers.logits
    # Same as argmax != K - 1, since argmax returns the first of several maxima.
    predicted = (logits[..., :-1].amax(-1) >= logits[..., -1]).sum(-1)  # (L, B)
    counts = to_device(torch.tensor(layers.objects.counts, dtype=logits.dtype), logits.device)
    errors = (predicted - counts).abs().mean(1)
    return [{"cardinality_error": error} for error in errors.unbind()]


def _same_shape(tensors: Sequence[Tensor | None]) -> bool:
    """Whether no tensor is missing and all have the same shape."""
    return len({None if t is None else t.shape for t in tensors}) == 1 and tensors[0] is not None
