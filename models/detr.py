"""The DETR model and its builder (paper, section 3.2)."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.released.coco_categories import default_num_classes
from util.nested_tensor import NestedTensor, nested_tensor_from_tensor_list
from util.options import PANOPTIC_DATA, option
from util.tensor_ops import in_float32

from .backbone import build_backbone
from .criterion import SetCriterion
from .focal import ALPHA, FocalCriterion, FocalMatcher, use_focal_scores
from .matcher import build_matcher
from .panoptic import SEGMENT_THRESHOLDS, PostProcessPanoptic, PostProcessSegm, coco_is_thing
from .postprocess import PostProcess
from .segmentation import DETRsegm
from .transformer import build_transformer

__all__ = ["DETR", "MLP", "PostProcess", "SetCriterion", "build"]


class DETR(nn.Module):
    """DETR: backbone, transformer and prediction heads (paper, section 3.2 and figure 2).

    Predicts a set of ``num_queries`` boxes with class scores in a single pass.

    Args:
        backbone: returns feature maps and positional encodings, see `models.backbone.Joiner`.
        transformer: see `models.transformer.Transformer`.
        num_classes: number of object classes; the last logit is an additional no-object class.
        num_queries: number of queries, which is the maximum number of detections per image.
        aux_loss: return the predictions of all decoder layers, for the auxiliary losses.
    """

    needs_targets = False  # True: training needs ``model(samples, targets)``
    cls_loss = "ce"  # or "focal": how class logits are converted to scores

    def __init__(
        self,
        backbone: nn.Module,
        transformer: nn.Module,
        num_classes: int,
        num_queries: int,
        aux_loss: bool = False,
    ):
        super().__init__()
        hidden_dim: int = transformer.d_model  # type: ignore[assignment]
        # Optimizer states in checkpoints depend on the order of these assignments.
        self.num_queries = num_queries
        self.transformer = transformer
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.bbox_embed = MLP(hidden_dim, hidden_dim, 4, 3)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.input_proj = nn.Conv2d(backbone.num_channels, hidden_dim, kernel_size=1)  # type: ignore[arg-type]
        self.backbone = backbone
        self.aux_loss = aux_loss

    def forward(  # type: ignore[no-untyped-def]
        self, samples: NestedTensor, targets: list[dict[str, Tensor]] | None = None
    ):
        """Predict classes and boxes.

        Args:
            samples: padded batch, list of images (3, H, W), or tensor (B, 3, H, W). RGB, normalized
                as in training (``--image_mean``, ``--image_std``; default: ImageNet's).
            targets: read in training by models with ``needs_targets``.

        Returns:
            ``pred_logits`` (B, Q, num_classes + 1), ``pred_boxes`` (B, Q, 4) cxcywh in [0, 1]
            relative to the image without padding, and with ``aux_loss`` ``aux_outputs``: a list of
            such dicts for the earlier decoder layers.
        """
        if isinstance(samples, (list, tuple, torch.Tensor)):
            samples = nested_tensor_from_tensor_list(samples)  # type: ignore[arg-type]
        features, positions = self.backbone(samples)
        return self.detect(features[-1], positions[-1], targets)[0]

    def detect(  # type: ignore[no-untyped-def]
        self,
        feature: NestedTensor,
        position: Tensor,
        targets: list[dict[str, Tensor]] | None = None,
    ):
        """Predict classes and boxes from the coarsest feature map.

        Args:
            feature, position: as in `decode`.
            targets: as in `forward`.

        Returns:
            the outputs of `forward`, and the inputs of the mask head: last decoder output
            (B, Q, C), projected features and encoder memory, both (B, C, H, W).
        """
        states, projected, memory = self.decode(feature, position)
        return self.predict(states), states[-1], projected, memory

    def decode(self, feature: NestedTensor, position: Tensor):  # type: ignore[no-untyped-def]
        """Project the coarsest feature map and run the transformer.

        Args:
            feature: (B, num_channels, H, W) with a padding mask (B, H, W).
            position: positional encodings (B, C, H, W).

        Returns:
            decoder outputs (L, B, Q, C); projected features and encoder memory, both (B, C, H, W).
        """
        mask = feature.mask
        assert mask is not None
        projected = self.input_proj(feature.tensors)
        decoded = self.transformer(projected, mask, self.query_embed.weight, position)
        return decoded[0], projected, decoded[1]

    def predict(self, states: Tensor):  # type: ignore[no-untyped-def]
        """Predict classes and boxes from decoder outputs (L, B, Q, C), as in `forward`."""
        if not self.aux_loss:
            states = states[-1:]  # the other layers are not needed
        if torch.jit.is_scripting():
            logits, boxes_cxcywh = self._heads(states)
        else:
            logits, boxes_cxcywh = in_float32(self._heads, states)
        return self._as_outputs(logits, boxes_cxcywh)

    def _as_outputs(self, logits: Tensor, boxes_cxcywh: Tensor):  # type: ignore[no-untyped-def]
        """Outputs of `forward` from logits (L, B, Q, K) and boxes (L, B, Q, 4) of all layers."""
        out: dict[str, Tensor] = {"pred_logits": logits[-1], "pred_boxes": boxes_cxcywh[-1]}
        if self.aux_loss:
            return self._with_auxiliary(out, logits[:-1], boxes_cxcywh[:-1])
        return out

    @torch.jit.unused  # TorchScript does not support dicts with values of different types
    def _with_auxiliary(
        self,
        out: dict[str, Tensor],
        logits: Tensor,
        boxes_cxcywh: Tensor,
    ) -> dict[str, Tensor]:
        """Add the predictions of the earlier decoder layers, (L - 1, B, Q, …), as a list."""
        layers = [
            {"pred_logits": layer_logits, "pred_boxes": layer_boxes}
            for layer_logits, layer_boxes in zip(logits, boxes_cxcywh, strict=True)
        ]
        return {**out, "aux_outputs": layers}  # type: ignore[dict-item]

    def _heads(self, states: Tensor):  # type: ignore[no-untyped-def]
        return self.class_embed(states), self.bbox_embed(states).sigmoid()


class MLP(nn.Module):
    """Multi-layer perceptron: linear layers with ReLU between them.

    Args:
        input_dim, hidden_dim, output_dim: numbers of channels.
        num_layers: number of linear layers.
    """

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int):
        super().__init__()
        self.num_layers = num_layers
        widths = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """(..., input_dim) -> (..., output_dim)."""
        for i, layer in enumerate(self.layers):
            x = layer(x) if i == self.num_layers - 1 else F.relu(layer(x))
        return x


def build(args: Any) -> tuple[nn.Module, SetCriterion, dict[str, nn.Module]]:
    """Build model, criterion and post-processors (``bbox``, ``segm``, ``panoptic``) from the flags.

    Raises:
        UserError: if flags contradict each other, or weights cannot be loaded.
    """
    num_classes = option(args, "num_classes") or default_num_classes(args.dataset_file)
    detr = build_detector(args, num_classes)
    model = DETRsegm(detr, freeze_detr=bool(args.frozen_weights)) if args.masks else detr
    losses = ["labels", "boxes", "cardinality", *(["masks"] if args.masks else [])]
    criterion = _build_criterion(args, num_classes, losses).to(torch.device(args.device))
    return model, criterion, _postprocessors(args, num_classes)


def build_detector(args: Any, num_classes: int) -> DETR:
    """Build the detector from the flags, with the queries of ``--query_design``."""
    from models.anchor.detr import build_anchor_detr  # imports this file

    if option(args, "query_design") == "anchor":
        detr: DETR = build_anchor_detr(args, num_classes)
    else:
        detr = DETR(
            build_backbone(args),
            build_transformer(args),
            num_classes=num_classes,
            num_queries=args.num_queries,
            aux_loss=args.aux_loss,
        )
    if option(args, "cls_loss") == "focal":
        use_focal_scores(detr)
    return detr


def _build_criterion(args: Any, num_classes: int, losses: list[str]) -> SetCriterion:
    weights = _loss_weights(args)
    if option(args, "cls_loss") == "focal":
        alpha = option(args, "focal_alpha")
        alpha = ALPHA if alpha is None else alpha
        costs = args.set_cost_class, args.set_cost_bbox, args.set_cost_giou
        matcher = FocalMatcher(*costs, alpha)
        iou_targets = option(args, "iou_targets")
        return FocalCriterion(num_classes, matcher, weights, losses, alpha, iou_targets)
    return SetCriterion(num_classes, build_matcher(args), weights, args.eos_coef, losses)


def _postprocessors(args: Any, num_classes: int) -> dict[str, nn.Module]:
    """Post-processors by name; things and stuff by COCO's ids, see `coco_is_thing`."""
    cls_loss = option(args, "cls_loss")
    postprocessors: dict[str, nn.Module] = {"bbox": PostProcess(cls_loss=cls_loss)}
    if args.masks:
        postprocessors["segm"] = PostProcessSegm()
        if args.dataset_file in PANOPTIC_DATA:
            given = option(args, "panoptic_threshold")
            threshold = SEGMENT_THRESHOLDS[cls_loss] if given is None else given
            postprocessors["panoptic"] = PostProcessPanoptic(
                coco_is_thing(num_classes), threshold, cls_loss=cls_loss
            )
    return postprocessors


def _loss_weights(args: Any) -> dict[str, float]:
    """Weight of each loss by name, the same for every decoder layer."""
    weights = {
        "loss_ce": option(args, "cls_loss_coef"),
        "loss_bbox": args.bbox_loss_coef,
        "loss_giou": args.giou_loss_coef,
    }
    if option(args, "denoising"):
        weights.update({f"{name}_dn": weight for name, weight in weights.items()})
    if args.masks:
        weights.update(loss_mask=args.mask_loss_coef, loss_dice=args.dice_loss_coef)
    if not args.aux_loss:
        return weights
    suffixes = ["", *(f"_{i}" for i in range(args.dec_layers - 1))]
    return {name + suffix: weight for suffix in suffixes for name, weight in weights.items()}
