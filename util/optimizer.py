"""The optimizer of the paper and its learning-rate schedules."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR


def build_optimizer(
    model: nn.Module, lr: float, lr_backbone: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, with a separate learning rate for the backbone.

    Source: DETR paper, appendix A.4.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in trained if "backbone" not in name]},
        {"params": [p for name, p in trained if "backbone" in name], "lr": lr_backbone},
    ]
    # Fused: one kernel for all parameters instead of a dozen kernels per parameter.
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=True)


class CappedCosineLR(CosineAnnealingLR):
    """Cosine annealing that never raises a learning rate.

    A parameter group that starts at or below ``eta_min``, often the backbone, keeps its rate.
    """

    def get_lr(self) -> list[Any]:
        """Learning rate of each parameter group in epoch ``last_epoch``."""
        return self._capped(super().get_lr())

    def _get_closed_form_lr(self) -> list[Any]:
        return self._capped(super()._get_closed_form_lr())

    def _capped(self, rates: Iterable[Any]) -> list[Any]:
        pairs = zip(self.base_lrs, rates, strict=True)
        return [first if first <= self.eta_min else rate for first, rate in pairs]


def build_lr_scheduler(
    optimizer: torch.optim.Optimizer, kind: str, epochs: int, lr_drop: int, lr_min: float
) -> LRScheduler:
    """The learning-rate schedule, to be stepped once per epoch.

    Args:
        optimizer: has the learning rates of the first epoch.
        kind: ``step`` divides the rates by 10 every ``lr_drop`` epochs; ``cosine`` anneals them to
            ``lr_min`` over ``epochs``, except rates that start at or below ``lr_min``.
    """
    if kind == "cosine":
        return CappedCosineLR(optimizer, epochs, lr_min)
    return StepLR(optimizer, lr_drop)


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """Batch norms with running statistics, which excludes frozen batch norms."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
