"""Activation checkpointing: the backward pass recomputes ResNet blocks and transformer layers.

The forward pass keeps the inputs of every second block and of every layer; the backward pass runs
blocks and layers a second time. Gradients are the same, to the last bit.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck

from models.anchor.decoder import AnchorDecoderLayer
from models.transformer import TransformerDecoderLayer, TransformerEncoderLayer

from .replacement import replace_modules


class RecomputedStage(nn.Sequential):
    """Stage of a ResNet that keeps the inputs of every second block.

    A block's input is at least as large as its intermediate activations, so keeping the input of
    every block would save only a third of the memory.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Run all blocks: (B, C, H, W) to (B, C', H', W')."""
        blocks = list(self)
        for first in range(0, len(blocks), 2):
            input = _recompute(_run, blocks[first : first + 2], input)
        return input


class _Recomputed(nn.Module):
    """Mixin for layers whose forward pass keeps only their inputs."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """See `models.transformer`; intermediate results are computed again for backward."""
        return _recompute(super().forward, *args, **kwargs)


class RecomputedEncoderLayer(_Recomputed, TransformerEncoderLayer):
    """Encoder layer that keeps its inputs only."""


class RecomputedDecoderLayer(_Recomputed, TransformerDecoderLayer):
    """Decoder layer that keeps its inputs only."""


class RecomputedAnchorDecoderLayer(_Recomputed, AnchorDecoderLayer):
    """Decoder layer of anchor queries that keeps its inputs only."""


_RECOMPUTED: dict[type[nn.Module], type[nn.Module]] = {
    TransformerEncoderLayer: RecomputedEncoderLayer,
    TransformerDecoderLayer: RecomputedDecoderLayer,
    AnchorDecoderLayer: RecomputedAnchorDecoderLayer,
}


def _run(blocks: list[nn.Module], x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


def _recompute(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return function(*args, **kwargs)
    result: Tensor = checkpoint(function, *args, use_reentrant=False, **kwargs)
    return result


def _recomputed_class(module: nn.Module) -> type[nn.Module] | None:
    blocks = {type(child) for child in module.children()}
    if type(module) is nn.Sequential and blocks and blocks <= {BasicBlock, Bottleneck}:
        return RecomputedStage
    return _RECOMPUTED.get(type(module))


def recompute_activations(model: nn.Module) -> None:
    """Checkpoint the activations of ResNet stages and transformer layers, in place.

    Stages and layers are replaced; their names, parameters and hooks do not change.

    Args:
        model: detector or segmentation model without trained batch norms, whose running statistics
            would be updated twice in each step.

    Raises:
        ValueError: if the model has batch norms.
    """
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        raise ValueError("activation checkpointing would update running statistics twice per step")
    replace_modules(model, _recomputed_class)
