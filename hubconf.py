"""Entry points for ``torch.hub.load``: the released DETR models.

    model = torch.hub.load(REPO, "detr_resnet50", pretrained=True).eval()
    outputs = model(images)  # (B, 3, H, W) RGB, normalized with the ImageNet mean and std

torch.hub lists every callable of this file as an entry point: import modules, not classes.
"""

import collections.abc
import numbers
import os
import sys
import typing

dependencies = ["torch", "torchvision"]

_FOLDER = os.path.dirname(os.path.realpath(__file__))


def _check_own_package(name: str) -> None:
    """Raise an ImportError if another project's package is imported as ``name``."""
    module = sys.modules.get(name)
    paths = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    path = next(filter(None, paths), "a module without a file")
    if module and os.path.dirname(os.path.realpath(path)) != os.path.join(_FOLDER, name):
        raise ImportError(
            f"the DETR hub entries need the package {name!r} in {_FOLDER}, but {path} has been "
            "imported under that name: rename that package, or load the model in a process that "
            "does not import it"
        )


_check_own_package("models")
_check_own_package("util")

from torch import nn  # noqa: E402

from models import (  # noqa: E402
    backbone,
    demo,
    detr,
    finetuning,
    focal,
    panoptic,
    position_encoding,
    segmentation,
    weights,
)
from models import transformer as transformers  # noqa: E402
from models.anchor import detr as anchor_detr  # noqa: E402
from models.anchor import transformer as anchor_transformer  # noqa: E402
from models.fast import inference  # noqa: E402
from models.released import zoo  # noqa: E402
from util import errors  # noqa: E402
from util.files import checkpoint  # noqa: E402

_HIDDEN_DIM = 256
_NUM_ANCHORS = 300
_Result = nn.Module | tuple[nn.Module, nn.Module]
_Entry = collections.abc.Callable[..., _Result]

_ARGUMENTS = """
Args:
    pretrained: load the released weights. With a different ``num_classes`` the classes' rows in the
        classification head are initialized randomly, and a report of the loaded weights is printed.
    num_classes: number of classes, without the no-object class. Default: 91, for COCO's category
        ids, or 250 (things and stuff) for panoptic models.
    threshold: minimum score of a segment in the panoptic post-processor; panoptic models only.
    return_postprocessor: return (model, post-processor) instead of the model. The post-processor
        is a `models.detr.PostProcess`, or for panoptic models a
        `models.panoptic.PostProcessPanoptic` that treats category ids up to 90 as things (set its
        ``is_thing_map`` for other data).
    backbone_weights: initial weights of the backbone if ``pretrained`` is False: ``imagenet``
        (downloaded), ``none`` (random), or the path of a weights file; not for detr_demo.
    query_design: ``learned``, or ``anchor``: the model of configs/detr_r50_50ep_anchor.txt, with
        300 queries and without released weights; box models only.
    optimize: return a copy prepared for inference instead of the model itself, see
        `models.fast.inference.optimize_for_inference`: faster, cannot be trained or changed.

Returns:
    The model in training mode: call ``.eval()`` (with ``optimize`` it is in evaluation mode). It
    takes a list of images (3, H, W) or a batch (B, 3, H, W), RGB, normalized with the ImageNet mean
    and standard deviation (detr_demo: a batch only, of at most 1600 pixels per side), and returns
    ``pred_logits`` (B, 100, num_classes + 1) and ``pred_boxes`` (B, 100, 4), cxcywh in [0, 1].
    Panoptic models add ``pred_masks`` (B, 100, H / 4, W / 4), logits.

Raises:
    UserError: if ``num_classes`` is invalid, or weights cannot be downloaded or do not match.
"""


def _build(
    name: str,
    pretrained: bool,
    num_classes: typing.Any,
    backbone_weights: str = "none",
    query_design: str = "learned",
    optimize: bool = False,
) -> nn.Module:
    """Build a model of `models.released.zoo`, with its released weights if `pretrained`."""
    _check_design(name, query_design, pretrained)
    if not isinstance(num_classes, numbers.Integral) or num_classes < 1:
        raise errors.UserError(f"{name}: num_classes {num_classes!r} must be a positive integer")
    num_classes = int(num_classes)  # of numpy, too
    released = zoo.RELEASED_MODELS[name]
    if released.minimal:
        model: nn.Module = demo.MinimalDETR(num_classes)
    else:  # the released weights contain the backbone
        weights_of_backbone = "none" if pretrained else backbone_weights
        model = _build_detr(released, num_classes, weights_of_backbone, query_design)
    if pretrained:
        _load_released_weights(model, released, num_classes)
    return inference.optimize_for_inference(model) if optimize else model


def _check_design(name: str, query_design: str, pretrained: bool) -> None:
    if query_design not in ("learned", "anchor"):
        raise errors.UserError(f"{name}: query_design {query_design!r} is not learned or anchor")
    if query_design == "anchor" and pretrained:
        raise errors.UserError(
            f"{name}: no weights are released for query_design='anchor'; use pretrained=False and "
            "load_state_dict"
        )


def _build_detr(
    released: zoo.ReleasedModel, num_classes: int, backbone_weights: str, query_design: str
) -> nn.Module:
    try:
        body = backbone.Backbone(
            released.backbone,
            train_backbone=True,
            return_interm_layers=released.masks,
            dilation=released.dilation,
            weights=backbone_weights,
        )
    except errors.UserError as err:  # a caller in Python gives arguments, not flags
        message = str(err).replace("--backbone_weights ", "backbone_weights=")
        raise errors.UserError(message) from err
    if query_design == "anchor":
        return _build_anchor_detr(body, num_classes)
    positions = position_encoding.PositionEmbeddingSine(_HIDDEN_DIM // 2, normalize=True)
    transformer = transformers.Transformer(d_model=_HIDDEN_DIM, return_intermediate_dec=True)
    joiner = backbone.Joiner(body, positions)
    model = detr.DETR(joiner, transformer, num_classes=num_classes, num_queries=100)
    return segmentation.DETRsegm(model) if released.masks else model


def _build_anchor_detr(body: nn.Module, num_classes: int) -> nn.Module:
    """The model of configs/detr_r50_50ep_anchor.txt."""
    joiner = backbone.Joiner(body, position_encoding.CellCenterEncoding(_HIDDEN_DIM // 2))
    transformer = anchor_transformer.AnchorTransformer(d_model=_HIDDEN_DIM)
    model = anchor_detr.AnchorDETR(joiner, transformer, num_classes, _NUM_ANCHORS)
    focal.use_focal_scores(model)
    return model


def _load_released_weights(model: nn.Module, released: zoo.ReleasedModel, num_classes: int) -> None:
    state = weights.model_state(checkpoint.load_checkpoint(released.url), released.url)
    if num_classes == released.num_classes:
        weights.load_model_state(model, state, released.url, flags_of_main=False)
    else:
        print(finetuning.finetune_model(model, state))


def _with_help(entry: _Entry, name: str) -> _Entry:
    """Set the name of an entry point, and its docstring for ``torch.hub.help``."""
    released = zoo.RELEASED_MODELS[name]
    scores = {"PQ": released.pq, "box AP": released.box_ap, "mask AP": released.mask_ap}
    numbers = ", ".join(f"{metric} {score}" for metric, score in scores.items() if score)
    summary = f"{released.title}: {numbers or released.remark} on COCO val2017."
    if released.dilation:
        summary += "\n\nTrained with one image per GPU; larger batches reduce the AP."
    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"{summary}\n{_ARGUMENTS}"
    return entry


def _box_entry(name: str) -> _Entry:
    def entry(
        pretrained: bool = False,
        num_classes: int = 91,
        return_postprocessor: bool = False,
        backbone_weights: str = "imagenet",
        query_design: str = "learned",
        optimize: bool = False,
    ) -> _Result:
        model = _build(name, pretrained, num_classes, backbone_weights, query_design, optimize)
        if not return_postprocessor:
            return model
        return model, detr.PostProcess(cls_loss=str(model.cls_loss))

    return _with_help(entry, name)


def _panoptic_entry(name: str) -> _Entry:
    def entry(
        pretrained: bool = False,
        num_classes: int = 250,
        threshold: float = 0.85,
        return_postprocessor: bool = False,
        backbone_weights: str = "imagenet",
        optimize: bool = False,
    ) -> _Result:
        model = _build(name, pretrained, num_classes, backbone_weights, optimize=optimize)
        if not return_postprocessor:
            return model
        return model, panoptic.PostProcessPanoptic(panoptic.coco_is_thing(num_classes), threshold)

    return _with_help(entry, name)


def _demo_entry(name: str) -> _Entry:
    def entry(
        pretrained: bool = False,
        num_classes: int = 91,
        return_postprocessor: bool = False,
        optimize: bool = False,
    ) -> _Result:
        model = _build(name, pretrained, num_classes, optimize=optimize)
        return (model, detr.PostProcess()) if return_postprocessor else model

    return _with_help(entry, name)


detr_resnet50 = _box_entry("detr_resnet50")
detr_resnet50_dc5 = _box_entry("detr_resnet50_dc5")
detr_resnet101 = _box_entry("detr_resnet101")
detr_resnet101_dc5 = _box_entry("detr_resnet101_dc5")
detr_resnet50_panoptic = _panoptic_entry("detr_resnet50_panoptic")
detr_resnet50_dc5_panoptic = _panoptic_entry("detr_resnet50_dc5_panoptic")
detr_resnet101_panoptic = _panoptic_entry("detr_resnet101_panoptic")
detr_demo = _demo_entry("detr_demo")
