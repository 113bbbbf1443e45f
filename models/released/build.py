"""Build a released model, with its weights or for training."""

import numbers
from typing import Any

from torch import nn

from models.anchor.detr import AnchorDETR, AnchorTransformer
from models.backbone import Backbone, Joiner
from models.demo import MinimalDETR
from models.detr import DETR
from models.fast.inference import optimize_for_inference
from models.finetuning import finetune_model
from models.focal import use_focal_scores
from models.position_encoding import CellCenterEncoding, PositionEmbeddingSine
from models.released.zoo import RELEASED_MODELS, ReleasedModel
from models.segmentation import DETRsegm
from models.transformer import Transformer
from models.weights import load_model_state, model_state
from util.errors import UserError
from util.files.checkpoint_file import load_checkpoint

_HIDDEN_DIM = 256
_NUM_ANCHORS = 300


def build_released(
    name: str,
    pretrained: bool,
    num_classes: Any,
    backbone_weights: str = "none",
    query_design: str = "learned",
    optimize: bool = False,
) -> nn.Module:
    """Build a model of `models.released.zoo`.

    Args:
        name: key of `RELEASED_MODELS`.
        pretrained, num_classes, backbone_weights, query_design, optimize: see ``hubconf.py``.

    Raises:
        UserError: an argument is invalid, or weights cannot be downloaded or do not match.
    """
    _check_design(name, query_design, pretrained)
    if not isinstance(num_classes, numbers.Integral) or num_classes < 1:
        raise UserError(f"{name}: num_classes {num_classes!r} must be a positive integer")
    num_classes = int(num_classes)  # converts NumPy integers
    released = RELEASED_MODELS[name]
    if released.minimal:
        model: nn.Module = MinimalDETR(num_classes)
    else:  # the released weights contain the backbone
        weights_of_backbone = "none" if pretrained else backbone_weights
        model = _build_detr(released, num_classes, weights_of_backbone, query_design)
    if pretrained:
        _load_released_weights(model, released, num_classes)
    return optimize_for_inference(model) if optimize else model


def _check_design(name: str, query_design: str, pretrained: bool) -> None:
    if query_design not in ("learned", "anchor"):
        raise UserError(f"{name}: query_design {query_design!r} is not learned or anchor")
    if query_design == "anchor" and pretrained:
        raise UserError(
            f"{name}: no weights are released for query_design='anchor'; use pretrained=False and "
            "load_state_dict"
        )


def _build_detr(
    released: ReleasedModel, num_classes: int, backbone_weights: str, query_design: str
) -> nn.Module:
    try:
        body = Backbone(
            released.backbone,
            train_backbone=True,
            return_interm_layers=released.masks,
            dilation=released.dilation,
            weights=backbone_weights,
        )
    except UserError as err:  # a caller in Python gives arguments, not flags
        message = str(err).replace("--backbone_weights ", "backbone_weights=")
        raise UserError(message) from err
    if query_design == "anchor":
        return _build_anchor_detr(body, num_classes)
    joiner = Joiner(body, PositionEmbeddingSine(_HIDDEN_DIM // 2, normalize=True))
    transformer = Transformer(d_model=_HIDDEN_DIM, return_intermediate_dec=True)
    model = DETR(joiner, transformer, num_classes=num_classes, num_queries=100)
    return DETRsegm(model) if released.masks else model


def _build_anchor_detr(body: nn.Module, num_classes: int) -> nn.Module:
    """The model of configs/detr_r50_50ep_anchor.txt."""
    joiner = Joiner(body, CellCenterEncoding(_HIDDEN_DIM // 2))
    transformer = AnchorTransformer(d_model=_HIDDEN_DIM)
    model = AnchorDETR(joiner, transformer, num_classes, _NUM_ANCHORS)
    use_focal_scores(model)
    return model


def _load_released_weights(model: nn.Module, released: ReleasedModel, num_classes: int) -> None:
    state = model_state(load_checkpoint(released.url, released=True), released.url)
    if num_classes == released.num_classes:
        load_model_state(model, state, released.url, flags_of_main=False)
    else:
        print(finetune_model(model, state))
