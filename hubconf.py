"""Entry points for ``torch.hub.load``: the released DETR models.

model = torch.hub.load(REPO, "detr_resnet50", pretrained=True).eval()
outputs = model(images)  # (B, 3, H, W) RGB, normalised with the ImageNet mean and deviation

torch.hub lists every callable of this file as an entry point, so it imports modules only.
"""

import os
import sys

dependencies = ["torch", "torchvision"]


def _refuse_foreign_packages() -> None:
    """Stop where another project's package has the name of one of ours.

    Raises:
        ImportError: names its file and the way out.
    """
    folder = os.path.dirname(os.path.realpath(__file__))
    for name in ("models", "util"):
        module = sys.modules.get(name)
        if module is None:
            continue
        places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
        place = next(filter(None, places), "a module without a file")
        if os.path.dirname(os.path.realpath(place)) != os.path.join(folder, name):
            raise ImportError(
                f"the DETR hub entries need their own package {name!r} in {folder}, but {place} "
                f"is imported under that name: rename that one, or load the model in a process "
                "that does not import it"
            )


_refuse_foreign_packages()

from torch import nn  # noqa: E402

from models import backbone, demo, detr, panoptic, position_encoding, segmentation, weights, zoo  # noqa: E402  # noqa: E402
from models import transformer as transformers  # noqa: E402
from util import errors  # noqa: E402
from util.files import checkpoint  # noqa: E402

_HIDDEN_DIM = 256


def _build(name: str, pretrained: bool, num_classes: int, backbone_weights: str) -> nn.Module:
    """Build a model of the table, with its released weights where asked for."""
    if not isinstance(num_classes, int) or num_classes < 1:
        raise errors.UserError(f"{name}: num_classes {num_classes!r} must be a number from 1 on")
    released = zoo.RELEASED_MODELS[name]
    if released.minimal:
        model: nn.Module = demo.MinimalDETR(num_classes)
    else:
        # A checkpoint brings the backbone.
        model = _build_detr(released, num_classes, "none" if pretrained else backbone_weights)
    if pretrained:
        _load_released_weights(model, released, num_classes)
    return model


def _build_detr(released: zoo.ReleasedModel, num_classes: int, backbone_weights: str) -> nn.Module:
    body = backbone.Backbone(
        released.backbone,
        train_backbone=True,
        return_interm_layers=released.masks,
        dilation=released.dilation,
        weights=backbone_weights,
    )
    positions = position_encoding.PositionEmbeddingSine(_HIDDEN_DIM // 2, normalize=True)
    transformer = transformers.Transformer(d_model=_HIDDEN_DIM, return_intermediate_dec=True)
    joiner = backbone.Joiner(body, positions)
    model = detr.DETR(joiner, transformer, num_classes=num_classes, num_queries=100)
    return segmentation.DETRsegm(model) if released.masks else model


def _load_released_weights(model: nn.Module, released: zoo.ReleasedModel, num_classes: int) -> None:
    state = weights.model_state(checkpoint.load_checkpoint(released.url), released.url)
    if num_classes == released.num_classes:
        weights.load_model_state(model, state, released.url, flags_of_main=False)
    else:
        print(weights.finetune_model(model, state))


def _box_model(
    name: str, pretrained: bool, num_classes: int, with_postprocessor: bool, backbone_weights: str
) -> nn.Module | tuple[nn.Module, nn.Module]:
    model = _build(name, pretrained, num_classes, backbone_weights)
    return (model, detr.PostProcess()) if with_postprocessor else model


def _panoptic_model(
    name: str,
    pretrained: bool,
    num_classes: int,
    threshold: float,
    with_postprocessor: bool,
    backbone_weights: str,
) -> nn.Module | tuple[nn.Module, nn.Module]:
    model = _build(name, pretrained, num_classes, backbone_weights)
    if not with_postprocessor:
        return model
    is_thing = panoptic.coco_is_thing(num_classes)
    return model, panoptic.PostProcessPanoptic(is_thing, threshold)


def detr_resnet50(
    pretrained: bool = False,
    num_classes: int = 91,
    return_postprocessor: bool = False,
    backbone_weights: str = "imagenet",
) -> nn.Module | tuple[nn.Module, nn.Module]:
    """DETR with ResNet-50, 6 encoder and 6 decoder layers: 42.0 box AP on COCO val2017.

    Args:
        pretrained: load the released weights. With another ``num_classes`` the classification head
            starts fresh, and what was loaded is printed.
        num_classes: number of object classes: 91 for COCO category ids.
        return_postprocessor: return (model, post-processor) instead of the model. The second turns
            outputs and image sizes into scores, labels and boxes.
        backbone_weights: where the backbone starts without ``pretrained``: ``imagenet`` (a
            download), ``none`` (random), or the path of a weights file.

    Returns:
        the model, in training mode: call ``.eval()``. It takes a list of images (3, H, W) or a
        batch (B, 3, H, W), RGB, normalised with the ImageNet mean and deviation, and returns
        ``pred_logits`` (B, 100, num_classes + 1) and ``pred_boxes`` (B, 100, 4), cxcywh in [0, 1].

    Raises:
        UserError: weights that cannot be had, or that are not what their name promises.
    """
    return _box_model(
        "detr_resnet50", pretrained, num_classes, return_postprocessor, backbone_weights
    )


def detr_resnet50_dc5(
    pretrained: bool = False,
    num_classes: int = 91,
    return_postprocessor: bool = False,
    backbone_weights: str = "imagenet",
) -> nn.Module | tuple[nn.Module, nn.Module]:
    """DETR with a dilated last stage of ResNet-50 (DC5): 43.3 box AP on COCO val2017.

    Arguments and result as of `detr_resnet50`. Trained with one image a GPU; larger batches cost
    AP.
    """
    return _box_model(
        "detr_resnet50_dc5", pretrained, num_classes, return_postprocessor, backbone_weights
    )


def detr_resnet101(
    pretrained: bool = False,
    num_classes: int = 91,
    return_postprocessor: bool = False,
    backbone_weights: str = "imagenet",
) -> nn.Module | tuple[nn.Module, nn.Module]:
    """DETR with ResNet-101: 43.5 box AP on COCO val2017.

    Arguments and result as of `detr_resnet50`.
    """
    return _box_model(
        "detr_resnet101", pretrained, num_classes, return_postprocessor, backbone_weights
    )


def detr_resnet101_dc5(
    pretrained: bool = False,
    num_classes: int = 91,
    return_postprocessor: bool = False,
    backbone_weights: str = "imagenet",
) -> nn.Module | tuple[nn.Module, nn.Module]:
    """DETR with a dilated last stage of ResNet-101 (DC5): 44.9 box AP on COCO val2017.

    Arguments and result as of `detr_resnet50`. Trained with one image a GPU; larger batches cost
    AP.
    """
    return _box_model(
        "detr_resnet101_dc5", pretrained, num_classes, return_postprocessor, backbone_weights
    )


def detr_resnet50_panoptic(
    pretrained: bool = False,
    num_classes: int = 250,
    threshold: float = 0.85,
    return_postprocessor: bool = False,
    backbone_weights: str = "imagenet",
) -> nn.Module | tuple[nn.Module, nn.Module]:
    """DETR with masks and ResNet-50: PQ 43.4, box AP 38.8, mask AP 31.1 on COCO val2017.

    Args:
        pretrained: load the released weights. With another ``num_classes`` the classification head
            starts fresh, and what was loaded is printed.
        num_classes: number of classes, things and stuff: 250 for COCO category ids.
        threshold: the post-processor leaves out queries with a lower score.
        return_postprocessor: return (model, panoptic post-processor) instead of the model. To the
            second, classes up to 90 are things; its ``is_thing_map`` may be changed.
        backbone_weights: where the backbone starts without ``pretrained``: ``imagenet`` (a
            download), ``none`` (random), or the path of a weights file.

    Returns:
        the model, in training mode: call ``.eval()``. Input and outputs as of `detr_resnet50`, and
        ``pred_masks`` (B, 100, H / 4, W / 4), logits.

    Raises:
        UserError: weights that cannot be had, or that are not what their name promises.
    """
    return _panoptic_model(
        "detr_resnet50_panoptic",
        pretrained,
        num_classes,
        threshold,
        return_postprocessor,
        backbone_weights,
    )


def detr_resnet50_dc5_panoptic(
    pretrained: bool = False,
    num_classes: int = 250,
    threshold: float = 0.85,
    return_postprocessor: bool = False,
    backbone_weights: str = "imagenet",
) -> nn.Module | tuple[nn.Module, nn.Module]:
    """DETR with masks, ResNet-50-DC5: PQ 44.6, box AP 40.2, mask AP 31.9 on COCO val2017.

    Arguments and result as of `detr_resnet50_panoptic`. Trained with one image a GPU; larger
    batches cost AP.
    """
    return _panoptic_model(
        "detr_resnet50_dc5_panoptic",
        pretrained,
        num_classes,
        threshold,
        return_postprocessor,
        backbone_weights,
    )


def detr_resnet101_panoptic(
    pretrained: bool = False,
    num_classes: int = 250,
    threshold: float = 0.85,
    return_postprocessor: bool = False,
    backbone_weights: str = "imagenet",
) -> nn.Module | tuple[nn.Module, nn.Module]:
    """DETR with masks and ResNet-101: PQ 45.1, box AP 40.1, mask AP 33.0 on COCO val2017.

    Arguments and result as of `detr_resnet50_panoptic`.
    """
    return _panoptic_model(
        "detr_resnet101_panoptic",
        pretrained,
        num_classes,
        threshold,
        return_postprocessor,
        backbone_weights,
    )


def detr_demo(
    pretrained: bool = False, num_classes: int = 91, return_postprocessor: bool = False
) -> nn.Module | tuple[nn.Module, nn.Module]:
    """The paper's minimal DETR with ResNet-50 (`models.demo`), for reading and for first steps.

    Args:
        pretrained: load the released weights; without, all weights are random. With another
            ``num_classes`` the classification head starts fresh, and what was loaded is printed.
        num_classes: number of object classes: 91 for COCO category ids.
        return_postprocessor: return (model, post-processor) instead of the model. The second turns
            outputs and image sizes into scores, labels and boxes.

    Returns:
        the model, in training mode: call ``.eval()``. It takes a batch (B, 3, H, W) of RGB images
        of at most 1600 pixels a side, normalised with the ImageNet mean and deviation, and returns
        ``pred_logits`` (B, 100, num_classes + 1) and ``pred_boxes`` (B, 100, 4), cxcywh in [0, 1].

    Raises:
        UserError: weights that cannot be had, or that are not what their name promises.
    """
    return _box_model("detr_demo", pretrained, num_classes, return_postprocessor, "none")
