"""Narrow ResNets under torchvision names, for tests whose subject is not the backbone.

Checkpoints of a detector with it take 2 MB instead of 130.
"""

from typing import Any

from torchvision.models import list_models
from torchvision.models._api import register_model
from torchvision.models.resnet import BasicBlock, ResNet

NARROW = "resnet14_narrow"
SHALLOW = "resnet10_narrow"  # for runs: it has no blocks without a convolution in the shortcut
_BLOCKS = {NARROW: [2, 1, 1, 2], SHALLOW: [1, 1, 1, 1]}


class _NarrowResNet(ResNet):
    """ResNet with an eighth of the channels in its four stages."""

    def _make_layer(self, block: type[BasicBlock], planes: int, *args: Any, **kwargs: Any) -> Any:
        return super()._make_layer(block, planes // 8, *args, **kwargs)


def _register(name: str) -> None:
    def build(weights: None = None, **kwargs: Any) -> ResNet:
        return _NarrowResNet(BasicBlock, _BLOCKS[name], **kwargs)

    build.__module__ = ResNet.__module__  # where `list_models` looks
    register_model(name)(build)


for _name in _BLOCKS:
    if _name not in list_models():
        _register(_name)
