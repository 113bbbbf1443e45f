"""Entry points for ``torch.hub.load``: the released DETR models.

model = torch.hub.load(REPO, "detr_resnet50", pretrained=True).eval()
outputs = model(images)  # (B, 3, H, W) RGB, normalised with the ImageNet mean and deviation
"""

from typing import NamedTuple

from torch import nn

from models.backbone import Backbone, Joiner
from models.detr import DETR, PostProcess
from models.position_encoding import PositionEmbeddingSine
from models.transformer import Transformer
from util.checkpoint import finetune_model, load_checkpoint, load_model_state, model_state

dependencies = ["torch", "torchvision"]

_ADDRESS = "https://dl.fbaipublicfiles.com/detr/"
_HIDDEN_DIM = 256
_NUM_COCO_CLASSES = 91


class _Released(NamedTuple):
    """A released model: how it is built, and the file with its weights (its hash in the name)."""

    backbone: str
    dilation: bool
    file: str


_RELEASED = {
    "detr_resnet50": _Released("resnet50", False, "detr-r50-e632da11.pth"),
    "detr_resnet50_dc5": _Released("resnet50", True, "detr-r50-dc5-f0fb7ef5.pth"),
    "detr_resnet101": _Released("resnet101", False, "detr-r101-2c7b67e5.pth"),
    "detr_resnet101_dc5": _Released("resnet101", True, "detr-r101-dc5-a2e86def.pth"),
}


def _build(
    name: str, pretrained: bool, num_classes: int, return_postprocessor: bool
) -> nn.Module | tuple[nn.Module, PostProcess]:
    """Build a box model of the table, with its released weights where asked for."""
    released = _RELEASED[name]
    backbone = Backbone(
        released.backbone,
        train_backbone=True,
        return_interm_layers=False,
        dilation=released.dilation,
        weights="none" if pretrained else "imagenet",  # the checkpoint brings the backbone
    )
    joiner = Joiner(backbone, PositionEmbeddingSine(_HIDDEN_DIM // 2, normalize=True))
    transformer = Transformer(d_model=_HIDDEN_DIM, return_intermediate_dec=True)
    model = DETR(joiner, transformer, num_classes=num_classes, num_queries=100)
    if pretrained:
        _load_released_weights(model, _ADDRESS + released.file, num_classes)
    return (model, PostProcess()) if return_postprocessor else model


def _load_released_weights(model: nn.Module, address: str, num_classes: int) -> None:
    state = model_state(load_checkpoint(address), address)
    if num_classes == _NUM_COCO_CLASSES:
        load_model_state(model, state, address)
    else:
        print(finetune_model(model, state))


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
    return _build("detr_resnet50", pretrained, num_classes, return_postprocessor)


def detr_resnet50_dc5(
    pretrained: bool = False,
    num_classes: int = _NUM_COCO_CLASSES,
    return_postprocessor: bool = False,
) -> nn.Module | tuple[nn.Module, PostProcess]:
    """DETR with a dilated last stage of ResNet-50 (DC5): 43.3 AP on COCO val2017.

    Args: as `detr_resnet50`. Trained with one image a GPU; larger batches cost AP.
    """
    return _build("detr_resnet50_dc5", pretrained, num_classes, return_postprocessor)


def detr_resnet101(
    pretrained: bool = False,
    num_classes: int = _NUM_COCO_CLASSES,
    return_postprocessor: bool = False,
) -> nn.Module | tuple[nn.Module, PostProcess]:
    """DETR with ResNet-101: 43.5 AP on COCO val2017.

    Args: as `detr_resnet50`.
    """
    return _build("detr_resnet101", pretrained, num_classes, return_postprocessor)


def detr_resnet101_dc5(
    pretrained: bool = False,
    num_classes: int = _NUM_COCO_CLASSES,
    return_postprocessor: bool = False,
) -> nn.Module | tuple[nn.Module, PostProcess]:
    """DETR with a dilated last stage of ResNet-101 (DC5): 44.9 AP on COCO val2017.

    Args: as `detr_resnet50`. Trained with one image a GPU; larger batches cost AP.
    """
    return _build("detr_resnet101_dc5", pretrained, num_classes, return_postprocessor)
