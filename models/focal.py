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
from models.fast.batched_losses import DecoderLayers
from models.matcher import HungarianMatcher, Indices, MatchedPairs, matched_objects
from util.box_ops import box_cxcywh_to_xyxy, elementwise_box_iou
from util.tensor_ops import accuracy, at_least_float32, to_device

ALPHA = 0.25  # Lin et al. 2017, section 5.1
GAMMA = 2
_PRIOR = 0.01  # initial score of all classes
_IOU_EXPONENT = 0.75  # the exponent of the score is 1 - 0.75, alpha in Align-DETR
_SMALLEST_TARGET = 0.01


def focal_terms(logits: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Focal loss of each logit (...), once for target 1 and once for target 0.

    Args:
        logits: (...).
        alpha: weight of the loss if the target is 1; if it is 0, the weight is ``1 - alpha``.
    """
    scores = logits.sigmoid()
    positive = alpha * (1 - scores) ** GAMMA * F.softplus(-logits)
    negative = (1 - alpha) * scores**GAMMA * F.softplus(logits)
    return positive, negative


def iou_target_term(logits: Tensor, boxes_cxcywh: Tensor, target_cxcywh: Tensor) -> Tensor:
    """Loss of the true class of matched pairs: cross-entropy with a target below 1.

    The target ``score ** 0.25 * IoU ** 0.75`` grows with score and IoU, so scores reflect box
    quality. No gradient flows through the target.

    Args:
        logits: (...) logits of the true classes.
        boxes_cxcywh: (..., 4) predicted boxes.
        target_cxcywh: (..., 4) boxes of the objects.

    Source: Cai et al., "Align-DETR: Improving DETR with Simple IoU-aware BCE Loss", 2023.
    """
    with torch.no_grad():
        boxes, objects = box_cxcywh_to_xyxy(boxes_cxcywh), box_cxcywh_to_xyxy(target_cxcywh)
        iou = elementwise_box_iou(boxes, objects.to(boxes.dtype)) ** _IOU_EXPONENT
        target = (logits.sigmoid() ** (1 - _IOU_EXPONENT) * iou).clamp(min=_SMALLEST_TARGET)
    return target * F.softplus(-logits) + (1 - target) * F.softplus(logits)


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
        iou_targets: for the true class of a matched query, `iou_target_term` instead of the focal
            loss.
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
        iou_targets: bool = False,
    ):
        super().__init__(num_classes, matcher, weight_dict, eos_coef=1, losses=losses)
        self.alpha = alpha
        self.iou_targets = iou_targets

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
        true_class = image, query, labels
        matched = positive[true_class]
        if self.iou_targets:
            boxes = at_least_float32(outputs["pred_boxes"])[image, query]
            objects = matched_objects("boxes", targets, indices)
            matched = iou_target_term(logits[true_class], boxes, objects)
        loss = negative.sum() + (matched - negative[true_class]).sum()
        losses = {"loss_ce": loss / num_boxes}
        if log:
            losses["class_error"] = 100 - accuracy(logits[image, query], labels)[0]
        return losses

    @torch.no_grad()
    def loss_cardinality(
        self, outputs: Outputs, targets: Targets, indices: Indices, num_boxes: Tensor | float
    ) -> Losses:
        """Mean absolute error of the number of queries with a score above 0.5; for logging only."""
        best_logits = at_least_float32(outputs["pred_logits"])[..., :-1].amax(-1)
        counts = best_logits.new_tensor([len(target["labels"]) for target in targets])
        num_detected = (best_logits > 0).sum(1)  # logit 0 = score 0.5
        return {"cardinality_error": (num_detected - counts).abs().mean()}

    def _all_layers_at_once(
        self, name: str, layers: DecoderLayers, matches: MatchedPairs, num_boxes: Tensor | float
    ) -> list[Losses]:
        if name == "labels":
            return _batched_labels(layers, matches, num_boxes, self.alpha, self.iou_targets)
        if name == "cardinality":
            return _batched_cardinality(layers)
        return super()._all_layers_at_once(name, layers, matches, num_boxes)


def _batched_labels(
    layers: DecoderLayers,
    matches: MatchedPairs,
    num_boxes: Tensor | float,
    alpha: float,
    iou_targets: bool,
) -> list[Losses]:
    """`FocalCriterion.loss_labels` of all layers."""
    num_classes = layers.logits.shape[-1] - 1
    logits = layers.logits[..., :-1].flatten(1)  # (L, B * Q * (K - 1))
    labels = layers.objects.labels[matches.target]  # (L, P)
    positive, negative = focal_terms(logits, alpha)
    true_class = matches.query * num_classes + labels  # (L, P)
    matched = positive.gather(1, true_class)
    if iou_targets:
        index = matches.query[..., None].expand(-1, -1, 4)
        boxes = layers.boxes_cxcywh.flatten(1, 2).gather(1, index)  # (L, P, 4)
        objects = layers.objects.boxes_cxcywh[matches.target]
        matched = iou_target_term(logits.gather(1, true_class), boxes, objects)
    loss = (negative.sum(1) + (matched - negative.gather(1, true_class)).sum(1)) / num_boxes
    losses: list[Losses] = [{"loss_ce": layer_loss} for layer_loss in loss.unbind()]
    last_layer = layers.logits[0].flatten(0, 1)[..., :-1]
    correct = accuracy(last_layer[matches.query[0]], labels[0])[0]
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
