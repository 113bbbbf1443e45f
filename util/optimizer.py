"""The optimizer of the paper, its learning-rate schedules, and how a step updates the weights."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
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


def backward(loss: Tensor, scaler: torch.amp.GradScaler | None) -> None:
    """Add the gradients of a loss, a number, to those that are there."""
    (loss if scaler is None else scaler.scale(loss)).backward()


def clip(
    parameters: Iterable[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    max_norm: float,
    scaler: torch.amp.GradScaler | None,
) -> Tensor:
    """Clip the gradients of a step, and judge them.

    Args:
        parameters: of the model, with their gradients.
        optimizer: of them.
        max_norm: largest norm of all gradients together; 0: they are not clipped.
        scaler: of mixed precision in float16.

    Returns:
        a number that is finite where the gradients are, or where ``scaler`` still has a scale above
        1 to take back: overflow is its own affair.
    """
    if scaler is not None:
        scaler.unscale_(optimizer)
    trained = [p for p in parameters if p.grad is not None]
    if max_norm > 0:
        norm = nn.utils.clip_grad_norm_(trained, max_norm)
    else:
        norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    if scaler is None:
        return norm.detach()
    return norm.detach().masked_fill(scaler.scale(torch.ones_like(norm)) > 1, 0)


def update(
    optimizer: torch.optim.Optimizer, skip: Tensor, scaler: torch.amp.GradScaler | None
) -> None:
    """Update the weights, or leave them as they are.

    The fused optimizer is told on the device, so that the host need not know.

    Args:
        optimizer: with gradients in place.
        skip: bool without dimensions: whether to leave weights and statistics alone.
        scaler: also skips steps whose gradients overflow. It treats ``skip`` as an overflow: the
            scale backs off.
    """
    if scaler is not None and scaler.is_enabled():
        _record_overflow(scaler, optimizer, skip)
        scaler.step(optimizer)
        scaler.update()
    elif all(group.get("fused") for group in optimizer.param_groups):
        fused: Any = optimizer  # the attributes by which PyTorch's own scaler tells it
        fused.grad_scale, fused.found_inf = None, skip.to(torch.float32)
        try:
            optimizer.step()
        finally:
            del fused.grad_scale, fused.found_inf
    elif not skip:
        optimizer.step()


def _record_overflow(
    scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, skip: Tensor
) -> None:
    """Let the scaler skip the step where ``skip`` is true, without a host synchronization.

    Gradients may be finite where the loss is not: the scaler, which checks gradients alone, would
    take the step.
    """
    if not scaler._found_inf_per_device(optimizer):  # `clip` was not called
        scaler.unscale_(optimizer)
    # What `unscale_` found, on each device; PyTorch has no public way to it.
    for found_inf in scaler._found_inf_per_device(optimizer).values():
        found_inf.masked_fill_(skip.to(found_inf.device, non_blocking=True), 1)


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """The layers whose buffers are moving statistics; frozen batch norms are none of them."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


class NormGuard:
    """Takes back what a skipped step did to the moving statistics of batch norms.

    Args:
        model: its batch norms in training mode count.
    """

    def __init__(self, model: nn.Module) -> None:
        norms = [norm for norm in batch_norms(model) if norm.training]
        self._buffers = [buffer for norm in norms for buffer in norm.buffers()]
        self._before = [buffer.clone() for buffer in self._buffers]

    def remember(self) -> None:
        """Before a step."""
        for before, buffer in zip(self._before, self._buffers, strict=True):
            before.copy_(buffer)

    def take_back(self, skip: Tensor) -> None:
        """After a step: put everything back if ``skip``, a bool on the device, is true."""
        for before, buffer in zip(self._before, self._buffers, strict=True):
            buffer.copy_(torch.where(skip, before, buffer))
