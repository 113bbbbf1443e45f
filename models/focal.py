"""Focal loss for classes: a sigmoid per class instead of a softmax with a no-object class.

The head keeps its row for the no-object class, so weights fit both losses; with the focal loss
this row is neither trained nor read.

Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017; its use with DETR's matching
follows Deformable DETR (Zhu et al., ICLR 2021, appendix A.3) and Conditional DETR.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.criterion import Losses, Outputs, SetCriterion, Targets
from models.fast.batched_losses import DecoderLayers, at_least_float32
from models.matcher import HungarianMatcher, Indices, MatchedPairs, matched_objects
from util.tensor_ops import accuracy
from util.transfer import to_device

ALPHA = 0.25  # Lin et al. 2017, section 5.1
GAMMA = 2
_PRIOR = 0.01  # initial score of all classes


def focal_terms(logits: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Focal loss of each logit (...) if its target is 1, and if its target is 0.

    Args:
        logits: (...).
        alpha: weight of targets 1; targets 0 have the weight ``1 - alpha``.
    """
    scores = logits.sigmoid()
    positive = alpha * (1 - scores) ** GAMMA * F.softplus(-logits)
    negative = (1 - alpha) * scores**GAMMA * F.softplus(logits)
    return positive, negative


def use_focal_scores(detector: nn.Module) -> None:
    """Set ``cls_loss`` of a DETR to focal, and its class bias so that initial scores are 0.01.

    Source: Lin et al. 2017, section 4.1.
    """
    detector.cls_loss = "focal"  # type: ignore[assignment]
    nn.init.constant_(detector.class_embed.bias, -math.log((1 - _PRIOR) / _PRIOR))  # type: ignore


class FocalMatcher(HungarianMatcher):
    """Hungarian matcher whose class cost is the focal loss with target 1 minus that with target 0.

    Args:
        cost_class, cost_bbox, cost_giou: see `models.matcher.HungarianMatcher`.
        alpha: see `focal_terms`.
    """

    def __init__(
        self,
        cost_class: float = 1,
        cost_bbox: float = 1,
        cost_giou: float = 1,
        alpha: float = ALPHA,
    ):
        super().__init__(cost_class, cost_bbox, cost_giou)
        self.alpha = alpha

    def _class_scores(self, logits: Tensor) -> Tensor:
        positive, negative = focal_terms(at_least_float32(logits), self.alpha)
        return negative - positive


class FocalCriterion(SetCriterion):
    """Set prediction loss with the focal loss for the classes.

    Args:
        alpha: see `focal_terms`.
        others: see `models.criterion.SetCriterion`; ``eos_coef`` does not apply.
    """

    _base_methods: ClassVar[dict[str, Any]]

    def __init__(
        self,
        num_classes: int,
        matcher: Any,
        weight_dict: dict[str, float],
        losses: Sequence[str],
        alpha: float = ALPHA,
    ):
        super().__init__(num_classes, matcher, weight_dict, eos_coef=1, losses=losses)
        self.alpha = alpha

    def loss_labels(
        self,
        outputs: Outputs,
        targets: Targets,
        indices: Indices,
        num_boxes: Tensor | float,
        log: bool = True,
    ) -> Losses:
        """Focal loss over all queries and classes, divided by ``num_boxes``.

        Args: as in `models.criterion.SetCriterion.loss_labels`.

        Returns:
            ``loss_ce``, and if ``log`` is set ``class_error`` in percent.
        """
        logits = at_least_float32(outputs["pred_logits"])[..., :-1]
        image, query = self._get_src_permutation_idx(indices)
        labels = matched_objects("labels", targets, indices)
        positive, negative = focal_terms(logits, self.alpha)
        is_object = torch.zeros_like(logits, dtype=torch.bool)
        is_object[image, query, labels] = True
        losses = {"loss_ce": torch.where(is_object, positive, negative).sum() / num_boxes}
        if log:
            losses["class_error"] = 100 - accuracy(logits[image, query], labels)[0]
        return losses

    @torch.no_grad()
    def loss_cardinality(
        self, outputs: Outputs, targets: Targets, indices: Indices, num_boxes: Tensor | float
    ) -> Losses:
        """Mean absolute error of the number of queries with a score above 0.5; for logging only."""
        scores = at_least_float32(outputs["pred_logits"])[..., :-1].amax(-1)
        counts = scores.new_tensor([len(target["labels"]) for target in targets])
        return {"cardinality_error": ((scores > 0).sum(1) - counts).abs().mean()}

    def _all_layers_at_once(
        self, name: str, layers: DecoderLayers, matches: MatchedPairs, num_boxes: Tensor | float
    ) -> list[Losses]:
        if name == "labels":
            return _batched_labels(layers, matches, num_boxes, self.alpha)
        if name == "cardinality":
            return _batched_cardinality(layers)
        return super()._all_layers_at_once(name, layers, matches, num_boxes)


def _batched_labels(
    layers: DecoderLayers, matches: MatchedPairs, num_boxes: Tensor | float, alpha: float
) -> list[Losses]:
    """`FocalCriterion.loss_labels` of all layers."""
    logits = layers.logits.flatten(1, 2)[..., :-1]  # (L, B * Q, K - 1)
    labels = layers.objects.labels[matches.target]  # (L, P)
    positive, negative = focal_terms(logits, alpha)
    flat = matches.query * logits.shape[-1] + labels  # (L, P) index into (B * Q * (K - 1))
    gain = (positive - negative).flatten(1).gather(1, flat).sum(1)
    loss = (negative.flatten(1).sum(1) + gain) / num_boxes
    losses: list[Losses] = [{"loss_ce": layer_loss} for layer_loss in loss.unbind()]
    correct = accuracy(logits[0][matches.query[0]], labels[0])[0]
    losses[0]["class_error"] = 100 - correct
    return losses


@torch.no_grad()
def _batched_cardinality(layers: DecoderLayers) -> list[Losses]:
    """`FocalCriterion.loss_cardinality` of all layers."""
    predicted = (layers.logits[..., :-1].amax(-1) > 0).sum(-1)  # (L, B)
    counts = torch.tensor(layers.objects.counts, dtype=layers.logits.dtype)
    errors = (predicted - to_device(counts, predicted.device)).abs().mean(1)
    return [{"cardinality_error": error} for error in errors.unbind()]


FocalCriterion._base_methods = {
    name: getattr(FocalCriterion, name) for name in SetCriterion._base_methods
}
