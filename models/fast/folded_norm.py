"""Fold frozen batch norms into the preceding convolutions, for training.

``norm(conv(x, w))`` equals ``conv(x, w * scale, shift)``. The product of weights and scale costs
far less than the passes over the feature map of a batch norm, forward and backward. Parameters,
buffers, their names and, up to rounding, the gradients do not change.
"""

from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, Bottleneck

from models.frozen_norm import FrozenBatchNorm2d

from .convolution import SmallMapConv2d


class FoldedNorm2d(FrozenBatchNorm2d):
    """Frozen batch norm that a `FoldedConv2d` has already applied: returns its input."""

    @classmethod
    def from_norm(cls, norm: FrozenBatchNorm2d) -> "FoldedNorm2d":
        """Create a module that shares the buffers of ``norm``, without its hooks."""
        new = cls(norm.weight.numel())
        for name, buffer in norm.named_buffers():
            setattr(new, name, buffer)
        new.eps = norm.eps
        return new.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        return x


class FoldedConv2d(SmallMapConv2d):
    """Convolution that also applies the frozen batch norm after it; hooks see the normalized map.

    Attributes:
        norm: the module after this one, which holds the buffers.
    """

    @classmethod
    def from_pair(cls, conv: nn.Conv2d, norm: FoldedNorm2d) -> "FoldedConv2d":
        """Create a module that shares the parameters of ``conv``, without its hooks."""
        new = cls.from_conv(conv)
        # In a tuple, so that it is not registered a second time, with its buffers.
        new._norms = (norm,)
        return new

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._norms: tuple[FoldedNorm2d, ...] = ()

    def forward(self, input: Tensor) -> Tensor:
        """Convolve and normalize (B, C, H, W) to (B, out_channels, H', W')."""
        (norm,) = self._norms
        scale, shift = norm.scale_and_shift()
        if self.bias is not None:
            shift = shift + self.bias * scale
        weight = self.weight * scale.view(-1, 1, 1, 1)
        dtype = self.weight.dtype
        return self._conv_forward(input, weight.to(dtype), shift.to(dtype))


def fold_frozen_norms(network: nn.Module) -> None:
    """Fold the frozen batch norms of torchvision ResNets into their convolutions, in place.

    Parameters, buffers and their names do not change. Only modules that are known to call each norm
    right after its convolution are changed. Call this before registering hooks.

    Args:
        network: contains ResNets built with `FrozenBatchNorm2d`.
    """
    for module in list(network.modules()):
        for conv_name, norm_name in _pairs(module):
            conv, norm = getattr(module, conv_name), getattr(module, norm_name)
            if type(conv) is nn.Conv2d and type(norm) is FrozenBatchNorm2d:
                folded = FoldedNorm2d.from_norm(norm)
                setattr(module, norm_name, folded)
                setattr(module, conv_name, FoldedConv2d.from_pair(conv, folded))


def _pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Names of the children that a module calls directly one after the other."""
    if type(module) in (BasicBlock, Bottleneck):
        return [(f"conv{i}", f"bn{i}") for i in (1, 2, 3) if hasattr(module, f"conv{i}")]
    if type(module) in (nn.Sequential, IntermediateLayerGetter):
        names = list(module._modules)
        return list(pairwise(names))
    return []
