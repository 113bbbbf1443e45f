"""The optimizer of the paper and its learning-rate schedules."""

from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR


def build_optimizer(
    model: nn.Module, lr: float, lr_backbone: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, with a learning rate of its own for the backbone.

    Source: DETR paper, appendix A.4.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in trained if "backbone" not in name]},
        {"params": [p for name, p in trained if "backbone" in name], "lr": lr_backbone},
    ]
    # Fused: one kernel for all parameters, where the plain one starts a dozen for each.
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=True)


def build_lr_scheduler(
    optimizer: torch.optim.Optimizer, kind: str, epochs: int, lr_drop: int, lr_min: float
) -> LRScheduler:
    """The schedule over epochs.

    Args:
        optimizer: its learning rates are those of the first epoch.
        kind: ``step`` divides by 10 every ``lr_drop`` epochs, ``cosine`` goes down to ``lr_min``
            over ``epochs``.
    """
    if kind == "cosine":
        return CosineAnnealingLR(optimizer, epochs, lr_min)
    return StepLR(optimizer, lr_drop)
