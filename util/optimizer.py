"""The optimizer of the paper and its learning-rate schedules."""

from collections.abc import Iterable
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


class CappedCosineLR(CosineAnnealingLR):
    """Cosine annealing that never raises a rate: ``eta_min`` is capped at each group's first rate.

    The backbone often starts below the floor of the other layers. Its rate is constant then.
    """

    def get_lr(self) -> list[Any]:
        """Learning rates of the groups for ``last_epoch``, from the rates before."""
        return self._capped(super().get_lr())

    def _get_closed_form_lr(self) -> list[Any]:
        return self._capped(super()._get_closed_form_lr())

    def _capped(self, rates: Iterable[Any]) -> list[Any]:
        pairs = zip(self.base_lrs, rates, strict=True)
        return [first if first <= self.eta_min else rate for first, rate in pairs]


def build_lr_scheduler(
    optimizer: torch.optim.Optimizer, kind: str, epochs: int, lr_drop: int, lr_min: float
) -> LRScheduler:
    """The schedule over epochs.

    Args:
        optimizer: its learning rates are those of the first epoch.
        kind: ``step`` divides by 10 every ``lr_drop`` epochs, ``cosine`` goes down to ``lr_min``
            over ``epochs``; a rate that starts at or below ``lr_min`` stays constant.
    """
    if kind == "cosine":
        return CappedCosineLR(optimizer, epochs, lr_min)
    return StepLR(optimizer, lr_drop)


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """The layers whose buffers are moving statistics; frozen batch norms are none of them."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
