"""A narrow ResNet under a torchvision name, for tests whose subject is not the backbone.

Checkpoints of a detector with it take 2 MB instead of 130.
"""

from typing import Any

from torchvision.models import list_models
from torchvision.models._api import register_model
from torchvision.models.resnet import BasicBlock, ResNet

NARROW = "resnet14_narrow"


class _NarrowResNet(ResNet):
    """ResNet with an eighth of the channels in its four stages."""

    def _make_layer(self, block: type[BasicBlock], planes: int, *args: Any, **kwargs: Any) -> Any:
        return super()._make_layer(block, planes // 8, *args, **kwargs)


def _build(weights: None = None, **kwargs: Any) -> ResNet:
    return _NarrowResNet(BasicBlock, [2, 1, 1, 2], **kwargs)


_build.__module__ = ResNet.__module__  # where `list_models` looks
if NARROW not in list_models():
    register_model(NARROW)(_build)
