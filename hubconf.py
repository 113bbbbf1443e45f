"""Entry points for ``torch.hub.load``: the released DETR models.

model = torch.hub.load(REPO, "detr_resnet50", pretrained=True).eval()
outputs = model(images)  # (B, 3, H, W) RGB, normalised with the ImageNet mean and deviation
"""

from typing import NamedTuple

from torch import nn

from models.backbone import Backbone, Joiner
from models.detr import DETR, PostProcess
from models.panoptic import PostProcessPanoptic, coco_is_thing
from models.position_encoding import PositionEmbeddingSine
from models.segmentation import DETRsegm
from models.transformer import Transformer
from util.checkpoint import load_checkpoint
from util.weights import finetune_model, load_model_state, model_state

dependencies = ["torch", "torchvision"]

_ADDRESS = "https://dl.fbaipublicfiles.com/detr/"
_HIDDEN_DIM = 256
_NUM_COCO_CLASSES = 91
_NUM_PANOPTIC_CLASSES = 250


class _Released(NamedTuple):
    """A released model: how it is built, and the file with its weights (its hash in the name)."""

    backbone: str
    dilation: bool
    file: str
    num_classes: int = _NUM_COCO_CLASSES
    masks: bool = False


_RELEASED = {
    "detr_resnet50": _Released("resnet50", False, "detr-r50-e632da11.pth"),
    "detr_resnet50_dc5": _Released("resnet50", True, "detr-r50-dc5-f0fb7ef5.pth"),
    "detr_resnet101": _Released("resnet101", False, "detr-r101-2c7b67e5.pth"),
    "detr_resnet101_dc5": _Released("resnet101", True, "detr-r101-dc5-a2e86def.pth"),
    "detr_resnet50_panoptic": _Released(
        "resnet50", False, "detr-r50-panoptic-00ce5173.pth", _NUM_PANOPTIC_CLASSES, masks=True
    ),
    "detr_resnet50_dc5_panoptic": _Released(
        "resnet50", True, "detr-r50-dc5-panoptic-da08f1b1.pth", _NUM_PANOPTIC_CLASSES, masks=True
    ),
    "detr_resnet101_panoptic": _Released(
        "resnet101", False, "detr-r101-panoptic-40021d53.pth", _NUM_PANOPTIC_CLASSES, masks=True
    ),
}


def _build(name: str, pretrained: bool, num_classes: int) -> nn.Module:
    """Build a model of the table, with its released weights where asked for."""
    released = _RELEASED[name]
    backbone = Backbone(
        released.backbone,
        train_backbone=True,
        return_interm_layers=released.masks,
        dilation=released.dilation,
        weights="none" if pretrained else "imagenet",  # the checkpoint brings the backbone
    )
    joiner = Joiner(backbone, PositionEmbeddingSine(_HIDDEN_DIM // 2, normalize=True))
    transformer = Transformer(d_model=_HIDDEN_DIM, return_intermediate_dec=True)
    detr = DETR(joiner, transformer, num_classes=num_classes, num_queries=100)
    model = DETRsegm(detr) if released.masks else detr
    if pretrained:
        _load_released_weights(model, released, num_classes)
    return model


def _load_released_weights(model: nn.Module, released: _Released, num_classes: int) -> None:
    address = _ADDRESS + released.file
    state = model_state(load_checkpoint(address), address)
    if num_classes == released.num_classes:
        load_model_state(model, state, address)
    else:
        print(finetune_model(model, state))


def _box_model(
    name: str, pretrained: bool, num_classes: int, return_postprocessor: bool
) -> nn.Module | tuple[nn.Module, PostProcess]:
    model = _build(name, pretrained, num_classes)
    return (model, PostProcess()) if return_postprocessor else model


def _panoptic_model(
    name: str, pretrained: bool, num_classes: int, threshold: float, return_postprocessor: bool
) -> nn.Module | tuple[nn.Module, PostProcessPanoptic]:
    model = _build(name, pretrained, num_classes)
    if not return_postprocessor:
        return model
    return model, PostProcessPanoptic(coco_is_thing(num_classes), threshold)


def detr_resnet50(
    pretrained: bool = False,
    num_classes: int = _NUM_COCO_CLASSES,
    return_postprocessor: bool = False,
) -> nn.Module | tuple[nn.Module, PostProcess]:
    """DETR with ResNet-50, 6 encoder and 6 decoder layers: 42.0 AP on COCO val2017.

    Args:
        pretrained: load the released weights. With another ``num_classes`` the classification head
            starts fresh, and what was loaded is printed.
        num_classes: number of object classes: 91 for COCO category ids.
        return_postprocessor: return (model, post-processor) instead of the model.
    """
    return _box_model("detr_resnet50", pretrained, num_classes, return_postprocessor)


def detr_resnet50_dc5(
    pretrained: bool = False,
    num_classes: int = _NUM_COCO_CLASSES,
    return_postprocessor: bool = False,
) -> nn.Module | tuple[nn.Module, PostProcess]:
    """DETR with a dilated last stage of ResNet-50 (DC5): 43.3 AP on COCO val2017.

    Args: as `detr_resnet50`. Trained with one image a GPU; larger batches cost AP.
    """
    return _box_model("detr_resnet50_dc5", pretrained, num_classes, return_postprocessor)


def detr_resnet101(
    pretrained: bool = False,
    num_classes: int = _NUM_COCO_CLASSES,
    return_postprocessor: bool = False,
) -> nn.Module | tuple[nn.Module, PostProcess]:
    """DETR with ResNet-101: 43.5 AP on COCO val2017.

    Args: as `detr_resnet50`.
    """
    return _box_model("detr_resnet101", pretrained, num_classes, return_postprocessor)


def detr_resnet101_dc5(
    pretrained: bool = False,
    num_classes: int = _NUM_COCO_CLASSES,
    return_postprocessor: bool = False,
) -> nn.Module | tuple[nn.Module, PostProcess]:
    """DETR with a dilated last stage of ResNet-101 (DC5): 44.9 AP on COCO val2017.

    Args: as `detr_resnet50`. Trained with one image a GPU; larger batches cost AP.
    """
    return _box_model("detr_resnet101_dc5", pretrained, num_classes, return_postprocessor)


def detr_resnet50_panoptic(
    pretrained: bool = False,
    num_classes: int = _NUM_PANOPTIC_CLASSES,
    threshold: float = 0.85,
    return_postprocessor: bool = False,
) -> nn.Module | tuple[nn.Module, PostProcessPanoptic]:
    """DETR with masks and ResNet-50: PQ 43.4, box AP 38.8, mask AP 31.1 on COCO val2017.

    Args:
        pretrained: load the released weights. With another ``num_classes`` the classification head
            starts fresh, and what was loaded is printed.
        num_classes: number of classes, things and stuff: 250 for COCO category ids.
        threshold: the post-processor leaves out queries with a lower score.
        return_postprocessor: return (model, panoptic post-processor) instead of the model.
    """
    return _panoptic_model(
        "detr_resnet50_panoptic", pretrained, num_classes, threshold, return_postprocessor
    )


def detr_resnet50_dc5_panoptic(
    pretrained: bool = False,
    num_classes: int = _NUM_PANOPTIC_CLASSES,
    threshold: float = 0.85,
    return_postprocessor: bool = False,
) -> nn.Module | tuple[nn.Module, PostProcessPanoptic]:
    """DETR with masks, ResNet-50-DC5: PQ 44.6, box AP 40.2, mask AP 31.9 on COCO val2017.

    Args: as `detr_resnet50_panoptic`. Trained with one image a GPU; larger batches cost AP.
    """
    return _panoptic_model(
        "detr_resnet50_dc5_panoptic", pretrained, num_classes, threshold, return_postprocessor
    )


def detr_resnet101_panoptic(
    pretrained: bool = False,
    num_classes: int = _NUM_PANOPTIC_CLASSES,
    threshold: float = 0.85,
    return_postprocessor: bool = False,
) -> nn.Module | tuple[nn.Module, PostProcessPanoptic]:
    """DETR with masks and ResNet-101: PQ 45.1, box AP 40.1, mask AP 33 on COCO val2017.

    Args: as `detr_resnet50_panoptic`.
    """
    return _panoptic_model(
        "detr_resnet101_panoptic", pretrained, num_classes, threshold, return_postprocessor
    )
