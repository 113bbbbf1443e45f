"""Inference of torchvision ResNets with fused convolution, batch norm, residual and ReLU."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops.misc import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d

from models.backbone import FrozenBatchNorm2d

from .convolution import SmallMapConv2d
from .fast_forward import FastForward
from .folded_norm import FoldedConv2d, FoldedNorm2d
from .packed_layers import PackedConv

_BLOCKS = {BasicBlock: 2, Bottleneck: 3}  # number of convolutions


class FusedBlock:
    """Forward pass of a residual block.

    Args:
        block: a `BasicBlock` or `Bottleneck`.
    """

    def __init__(self, block: Any):
        self._convs = [PackedConv(*pair) for pair in _pairs(block)]
        self._shortcut = PackedConv(*block.downsample) if block.downsample else None

    def __call__(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W').

        Args:
            overwrite: whether the result may be written into ``x``.
        """
        if self._shortcut is not None:
            residual = self._shortcut(x)
        else:
            residual = x if overwrite else x.clone(memory_format=torch.channels_last)
        *first, last = self._convs
        for conv in first:
            x = conv(x, relu=True)
        return last(x, residual, relu=True)


class FusedStage:
    """Forward pass of a stage: a sequence of blocks."""

    def __init__(self, blocks: Sequence[FusedBlock]):
        self._blocks = blocks

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        for number, block in enumerate(self._blocks):
            x = block(x, overwrite=number > 0)
        return x


class FusedStem:
    """First convolution of a ResNet with its norm and ReLU.

    Args:
        resnet: has the children ``conv1`` and ``bn1``.
    """

    def __init__(self, resnet: Any):
        self._conv = PackedConv(resnet.conv1, resnet.bn1)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H / 2, W / 2)."""
        return self._conv(x, relu=True)


def fuse_resnets(model: nn.Module) -> None:
    """Replace the forward passes of stems and blocks, in place. Other modules are left as they are.

    Args:
        model: in evaluation mode.
    """
    for module in list(model.modules()):
        if type(module) in (ResNet, IntermediateLayerGetter):
            _fuse_stem(module)
        elif type(module) in _BLOCKS and _can_fuse_block(module):
            FastForward.replace(module, FusedBlock(module), watched=_inside(module))
    for module in list(model.modules()):
        if type(module) is nn.Sequential:
            blocks: list[Any] = [getattr(child.forward, "fast", None) for child in module]
            if all(isinstance(block, FusedBlock) for block in blocks):
                FastForward.replace(module, FusedStage(blocks), watched=_inside(module))


def _fuse_stem(resnet: Any) -> None:
    names = [name for name, _ in resnet.named_children()][:3]
    if names == ["conv1", "bn1", "relu"] and _can_fold(resnet.conv1, resnet.bn1):
        parts = [resnet.conv1, resnet.bn1, resnet.relu]
        FastForward.replace(resnet.conv1, FusedStem(resnet), watched=parts)
        FastForward.replace(resnet.bn1, _identity, watched=parts)
        FastForward.replace(resnet.relu, _identity, watched=parts)


def _identity(x: Tensor) -> Tensor:
    return x


def _inside(module: nn.Module) -> list[nn.Module]:
    return list(module.modules())[1:]


def pads_with_zeros(conv: nn.Conv2d) -> bool:
    """Whether `PackedConv` supports the padding of a convolution."""
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _pairs(block: Any) -> Iterator[tuple[Any, nn.Module]]:
    for number in range(1, _BLOCKS[type(block)] + 1):
        yield getattr(block, f"conv{number}"), getattr(block, f"bn{number}")


def _can_fuse_block(block: Any) -> bool:
    shortcut = block.downsample
    pairs = [*_pairs(block), *([] if shortcut is None else [tuple(shortcut)])]
    is_known = shortcut is None or (type(shortcut) is nn.Sequential and len(shortcut) == 2)
    return is_known and type(block.relu) is nn.ReLU and all(_can_fold(*pair) for pair in pairs)


def _can_fold(conv: Any, norm: nn.Module) -> bool:
    frozen = type(norm) in (FrozenBatchNorm2d, FoldedNorm2d, TorchvisionFrozenBatchNorm2d)
    averaged = type(norm) is nn.BatchNorm2d and norm.track_running_stats and not norm.training
    is_known = type(conv) in (nn.Conv2d, SmallMapConv2d, FoldedConv2d)
    return is_known and pads_with_zeros(conv) and (frozen or averaged)
