"""The set prediction loss (DETR paper, section 3.1, section 4.4 and appendix A.2)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from util.box_ops import box_cxcywh_to_xyxy, elementwise_generalized_box_iou
from util.distributed.data_parallel import mean_number_of_objects
from util.tensor_ops import accuracy, at_least_float32

from .anchor.denoising_losses import denoising_losses, matched_batch
from .fast import batched_losses
from .fast.batched_losses import DecoderLayers
from .fast.deferred_masks import select_queries, with_all_masks
from .mask_losses import dice_loss, pad_masks, sigmoid_focal_loss
from .matcher import Indices, MatchedPairs, image_and_index, match_layers, matched_objects

Losses = dict[str, Tensor]
Outputs = dict[str, Any]
Targets = Sequence[Mapping[str, Tensor]]


class SetCriterion(nn.Module):
    """Set prediction loss: match queries to objects, and compute the losses of all decoder layers.

    The methods ``loss_labels``, ``loss_cardinality``, ``loss_boxes`` and ``loss_masks`` define the
    losses of one decoder layer. A subclass may override them and add others, see
    ``docs/extending.md``. For each method that is not overridden, `models.fast.batched_losses`
    computes the same numbers for all decoder layers together; `loss_masks` runs for the last layer
    only.

    Args:
        num_classes: number of object classes; index ``num_classes`` is the no-object class.
        matcher: a `models.matcher.HungarianMatcher`, or any callable that takes the outputs of a
            decoder layer and the targets and returns the matched pairs in the same format.
        weight_dict: weight of each loss by name; applied by `engine.weight_losses`, not here.
        eos_coef: weight of the no-object class in the classification loss.
        losses: names of the losses to compute: ``labels``, ``boxes``, ``masks``, ``cardinality``,
            and names added by a subclass: NAME if it defines ``loss_NAME``, or any name that its
            ``get_loss`` handles.

    Raises:
        ValueError: if a loss is unknown.
    """

    empty_weight: Tensor
    _base_methods: ClassVar[dict[str, Any]]

    def __init__(
        self,
        num_classes: int,
        matcher: Callable[[Outputs, Targets], Indices],
        weight_dict: dict[str, float],
        eos_coef: float,
        losses: Sequence[str],
    ):
        super().__init__()
        if not self._is_overridden("get_loss"):  # a subclass may accept other names
            self._check_known(losses)
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
        outputs: Outputs,
        targets: Targets,
        num_boxes: Tensor | float | None = None,
    ) -> Losses:
        """Compute the losses.

        No collective is used in evaluation mode, since ranks may have different numbers of batches.

        Args:
            outputs: ``pred_logits`` (B, Q, K), K = ``num_classes`` + 1; ``pred_boxes`` (B, Q, 4)
                cxcywh in [0, 1]; optionally ``aux_outputs``, a list of such dicts for the earlier
                decoder layers; for masks ``pred_masks``, logits (B, Q, H, W).
            targets: for each image ``labels`` (n,) below ``num_classes`` and ``boxes`` (n, 4)
                cxcywh in [0, 1]; for masks ``masks`` (n, H, W), 1 inside.
            num_boxes: divisor of the losses of matched pairs. Default: number of objects in the
                batch; in training mode `mean_number_of_objects`.

        Returns:
            0-d tensors: ``loss_ce``, ``loss_bbox``, ``loss_giou``, ``cardinality_error``, and with
            the suffixes ``_0``, ``_1``, … the same losses of the auxiliary layers; ``class_error``
            in percent (100 without objects, which `engine` excludes from its averages); with masks
            ``loss_mask`` and ``loss_dice``; for denoising queries ``loss_ce_dn``, ….

        Raises:
            DivergenceError: in evaluation mode, if a prediction is not finite.
            ValueError: if the loss ``masks`` finds no masks in outputs or targets.
        """
        layers = [outputs, *outputs.get("aux_outputs", [])]  # last decoder layer first
        stacked = DecoderLayers.stack(layers, targets)
        indices = match_layers(self.matcher, layers, targets, stacked)
        if num_boxes is None:
            num_boxes = self._number_of_objects(outputs, targets)
        if isinstance(num_boxes, Tensor):
            num_boxes = num_boxes.to(torch.promote_types(_first(outputs).dtype, torch.float32))
        losses = self._losses_of_pairs(self.losses, layers, stacked, targets, indices, num_boxes)
        if "denoising" in outputs:
            denoised = matched_batch(outputs["denoising"], targets, num_boxes)
            found = self._losses_of_pairs(("labels", "boxes"), *denoised)
            losses.update(denoising_losses(found, denoised.has_objects))
        return losses

    def _losses_of_pairs(
        self,
        names: Sequence[str],
        layers: Sequence[Outputs],
        stacked: DecoderLayers | None,
        targets: Targets,
        indices: Sequence[Indices],
        num_boxes: Tensor | float,
    ) -> Losses:
        """Losses of all layers by name, see `forward`, from the matched pairs of each layer."""
        matches = None if stacked is None else stacked.matches(indices)
        losses: list[Losses] = [{} for _ in layers]
        for name in names:
            if stacked is not None and matches is not None and self._has_batched_form(name):
                found = self._all_layers_at_once(name, stacked, matches, num_boxes)
            else:
                found = self._layer_by_layer(name, layers, targets, indices, num_boxes)
            # The mask losses are computed only for the last decoder layer, which is ``losses[0]``.
            for layer_losses, new in zip(losses, found, strict=False):
                layer_losses.update(new)
        return _join_layers(losses)

    def loss_labels(
        self,
        outputs: Outputs,
        targets: Targets,
        indices: Indices,
        num_boxes: Tensor | float,
        log: bool = True,
    ) -> Losses:
        """Cross-entropy over all queries; the no-object class has the weight ``eos_coef``.

        Args:
            outputs: predictions of one decoder layer, as in `forward`.
            targets: as in `forward`.
            indices: matched pairs, as `models.matcher.HungarianMatcher` returns them.
            num_boxes: divisor of the losses of matched pairs; unused here.
            log: also return the classification error of the matched queries.

        Returns:
            ``loss_ce``, and if ``log`` is set ``class_error`` in percent.
        """
        logits = at_least_float32(outputs["pred_logits"])
        matched = self._get_src_permutation_idx(indices)
        labels = matched_objects("labels", targets, indices)
        classes = torch.full(logits.shape[:2], self.num_classes, device=logits.device)
        classes[matched] = labels
        weight = self.empty_weight.to(logits.dtype)
        losses = {"loss_ce": F.cross_entropy(logits.transpose(1, 2), classes, weight)}
        if log:
            losses["class_error"] = 100 - accuracy(logits[matched], labels)[0]
        return losses

    @torch.no_grad()
    def loss_cardinality(
        self, outputs: Outputs, targets: Targets, indices: Indices, num_boxes: Tensor | float
    ) -> Losses:
        """Mean absolute error of the number of predicted objects; for logging only.

        Args: as in `loss_labels`.

        Returns:
            ``cardinality_error``.
        """
        logits = at_least_float32(outputs["pred_logits"])
        no_object = logits.shape[-1] - 1
        predicted = (logits.argmax(-1) != no_object).sum(1).to(logits.dtype)
        counts = [len(target["labels"]) for target in targets]
        return {"cardinality_error": F.l1_loss(predicted, predicted.new_tensor(counts))}

    def loss_boxes(
        self, outputs: Outputs, targets: Targets, indices: Indices, num_boxes: Tensor | float
    ) -> Losses:
        """L1 and generalized IoU losses of the matched boxes, divided by ``num_boxes``.

        Args: as in `loss_labels`.

        Returns:
            ``loss_bbox`` and ``loss_giou``.
        """
        boxes_cxcywh = at_least_float32(outputs["pred_boxes"])
        predicted = boxes_cxcywh[self._get_src_permutation_idx(indices)]  # (P, 4)
        target = matched_objects("boxes", targets, indices).to(predicted.dtype)
        giou = elementwise_generalized_box_iou(
            box_cxcywh_to_xyxy(predicted), box_cxcywh_to_xyxy(target)
        )
        return {
            "loss_bbox": F.l1_loss(predicted, target, reduction="sum") / num_boxes,
            "loss_giou": (1 - giou).sum() / num_boxes,
        }

    def loss_masks(
        self, outputs: Outputs, targets: Targets, indices: Indices, num_boxes: Tensor | float
    ) -> Losses:
        """Focal and dice losses of the matched masks, at the size of the padded target masks.

        Padding is background, as in the training of the released weights.

        Args: as in `loss_labels`.

        Returns:
            ``loss_mask`` and ``loss_dice``.

        Raises:
            ValueError: if outputs or targets have no masks.
        """
        if "pred_masks" not in outputs or not all("masks" in target for target in targets):
            raise ValueError('the loss "masks" needs "pred_masks" and targets with "masks"')
        logits = outputs["pred_logits"]
        counts = [len(target["masks"]) for target in targets]
        matches = MatchedPairs.from_indices([indices], logits.shape[1], counts, logits.device)
        masks = at_least_float32(select_queries(outputs["pred_masks"], matches.query[0]))
        padded = pad_masks([target["masks"] for target in targets])
        target = padded[matches.target[0]].to(masks.dtype)
        masks = F.interpolate(masks[:, None], size=target.shape[-2:], mode="bilinear")
        masks, target = masks.flatten(1), target.flatten(1)  # (P, H * W)
        return {
            "loss_mask": sigmoid_focal_loss(masks, target, num_boxes),
            "loss_dice": dice_loss(masks, target, num_boxes),
        }

    def get_loss(
        self,
        loss: str,
        outputs: Outputs,
        targets: Targets,
        indices: Indices,
        num_boxes: Tensor | float,
        **kwargs: Any,
    ) -> Losses:
        """Compute a loss of one decoder layer by its name in ``losses``.

        Args:
            loss: name of the loss.
            outputs, targets, indices, num_boxes: as in `loss_labels`. For the last decoder layer
                ``outputs`` has all keys that the model returned.
            kwargs: ``log=False`` for ``labels`` of an auxiliary layer.

        Raises:
            ValueError: if the loss is unknown.
        """
        self._check_known([loss])
        if loss == "masks" and self._is_overridden("loss_masks"):
            outputs = with_all_masks(outputs)
        method = getattr(self, f"loss_{loss}")
        return method(outputs, targets, indices, num_boxes, **kwargs)

    def _get_src_permutation_idx(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Index of the matched predictions in (B, Q, …): image (P,) and query (P,)."""
        return image_and_index([query for query, _ in indices])

    def _get_tgt_permutation_idx(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Index of the matched objects in padded targets (B, n, …): image (P,) and object (P,)."""
        return image_and_index([target for _, target in indices])

    def _number_of_objects(self, outputs: Outputs, targets: Targets) -> Tensor | float:
        count = sum(len(target["labels"]) for target in targets)
        if self.training:
            return mean_number_of_objects(count, _first(outputs).device)
        return max(float(count), 1.0)

    def _check_known(self, losses: Sequence[str]) -> None:
        unknown = sorted(name for name in losses if not hasattr(self, f"loss_{name}"))
        if unknown:
            raise ValueError(
                f"unknown losses {unknown}, expected {list(_LOSSES)}; "
                "to add NAME, define a method loss_NAME or override get_loss in a subclass"
            )

    def _is_overridden(self, method: str) -> bool:
        return getattr(getattr(self, method), "__func__", None) is not self._base_methods[method]

    def _has_batched_form(self, name: str) -> bool:
        """Whether `models.fast.batched_losses` can replace ``get_loss(name, …)``."""
        if name == "masks" or name not in _LOSSES:
            return False
        methods = ("get_loss", f"loss_{name}", "_get_src_permutation_idx")
        return not any(self._is_overridden(method) for method in methods)

    def _all_layers_at_once(
        self, name: str, layers: DecoderLayers, matches: MatchedPairs, num_boxes: Tensor | float
    ) -> list[Losses]:
        if name == "labels":
            return batched_losses.loss_labels(layers, matches, self.num_classes, self.empty_weight)
        if name == "boxes":
            return batched_losses.loss_boxes(layers, matches, num_boxes)
        return batched_losses.loss_cardinality(layers)

    def _layer_by_layer(
        self,
        name: str,
        layers: Sequence[Outputs],
        targets: Targets,
        indices: Sequence[Indices],
        num_boxes: Tensor | float,
    ) -> list[Losses]:
        """Compute a loss for the last decoder layer, then the auxiliary layers.

        The loss ``masks`` is computed for the last layer only.
        """
        if name == "masks":
            layers = layers[:1]
        losses = []
        for number, layer in enumerate(layers):
            options = {"log": False} if name == "labels" and number > 0 else {}
            losses.append(
                self.get_loss(name, layer, targets, indices[number], num_boxes, **options)
            )
        return losses


def _first(outputs: Mapping[str, Any]) -> Tensor:
    """Any output tensor; it has the device and the dtype of the losses."""
    return next(iter(outputs.values()))


def _join_layers(losses: Sequence[Losses]) -> Losses:
    """Merge the losses of all layers: no suffix for the last, ``_0``, ``_1``, … for the others."""
    suffixes = ["", *(f"_{number}" for number in range(len(losses) - 1))]
    return {
        name + suffix: value
        for layer_losses, suffix in zip(losses, suffixes, strict=True)
        for name, value in layer_losses.items()
    }


_LOSSES = ("labels", "boxes", "masks", "cardinality")
# Except for masks, `models.fast.batched_losses` replaces these methods, unless a subclass overrides
# them.
SetCriterion._base_methods = {
    name: getattr(SetCriterion, name)
    for name in ("get_loss", "_get_src_permutation_idx", *(f"loss_{loss}" for loss in _LOSSES))
}
