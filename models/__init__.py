"""The DETR model: backbone, transformer, heads, matching, loss and post-processing."""

from typing import Any

from torch import nn

from .criterion import SetCriterion
from .detr import build

__all__ = ["build_model"]


def build_model(args: Any) -> tuple[nn.Module, SetCriterion, dict[str, nn.Module]]:
    """Build model, criterion and post-processors from the flags, see `models.detr.build`."""
    return build(args)
