"""Optimizers, learning-rate schedules, and freezing the backbone."""

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR

OPTIMIZERS = ("adamw", "adam", "sgd")
_DEFAULT_MOMENTUM = 0.9  # for SGD
_BACKBONE = "backbone"  # parameters with this in their name form the second group
_BACKBONE_GROUP = 1


def build_optimizer(
    model: nn.Module,
    lr: float,
    lr_backbone: float,
    weight_decay: float,
    kind: str = "adamw",
    momentum: float | None = None,
) -> torch.optim.Optimizer:
    """An optimizer over the trainable parameters, with a separate learning rate for the backbone.

    Args:
        model: its trainable parameters are optimized; parameters with "backbone" in their name
            form the second group.
        lr: learning rate of the first group.
        lr_backbone: learning rate of the second group.
        weight_decay: decoupled for ``adamw``; added to the gradient, as L2 penalty, for the others.
        kind: ``adamw`` (DETR paper, appendix A.4), ``adam`` or ``sgd``.
        momentum: of ``sgd``; None: 0.9.

    Raises:
        ValueError: unknown kind.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in trained if _BACKBONE not in name]},
        {"params": [p for name, p in trained if _BACKBONE in name], "lr": lr_backbone},
    ]
    # Fused: one kernel for all parameters instead of a dozen kernels per parameter.
    if kind == "adamw":
        return _AdamW(groups, lr=lr, weight_decay=weight_decay, fused=True)
    if kind == "adam":
        return torch.optim.Adam(groups, lr=lr, weight_decay=weight_decay, fused=True)
    if kind == "sgd":
        momentum = _DEFAULT_MOMENTUM if momentum is None else momentum
        return _build_sgd(groups, lr, weight_decay, momentum)
    raise ValueError(f"optimizer {kind!r}, expected one of {', '.join(OPTIMIZERS)}")


class _AdamW(torch.optim.AdamW):
    """AdamW without a copy of each channels-last gradient.

    PyTorch's fused kernel for CPUs (2.11) calls ``contiguous()`` on each gradient, but then reads
    the original in memory order. An NHWC view avoids the copy; the update is the same.
    """

    def _init_group(self, group: Any, params: Any, grads: list[Tensor], *states: Any) -> bool:
        has_complex: bool = super()._init_group(group, params, grads, *states)
        grads[:] = [_contiguous_view(grad) for grad in grads]
        return has_complex


def _contiguous_view(grad: Tensor) -> Tensor:
    if grad.device.type == "cpu" and grad.is_contiguous(memory_format=torch.channels_last):
        return grad.permute(0, 2, 3, 1)
    return grad


def _build_sgd(
    groups: list[dict[str, Any]], lr: float, weight_decay: float, momentum: float
) -> torch.optim.SGD:
    """SGD whose momentum buffers exist from the start.

    The fused kernel allocates them in the first step without initializing them: if that step is
    skipped because it is not finite, the second one would read uninitialized memory.
    """
    sgd = torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)
    if momentum:
        for group in sgd.param_groups:
            for parameter in group["params"]:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter.detach())
    return sgd


def set_backbone_trained(optimizer: torch.optim.Optimizer, trained: bool) -> bool:
    """Freeze or unfreeze the backbone parameters that the optimizer holds.

    Frozen parameters get no gradient, so the optimizer neither updates nor decays them.

    Args:
        optimizer: from `build_optimizer`; its state does not change.

    Returns:
        whether anything has changed. A `DistributedDataParallel` must then be built again.
    """
    backbone = optimizer.param_groups[_BACKBONE_GROUP]["params"]
    changed = any(parameter.requires_grad != trained for parameter in backbone)
    for parameter in backbone:
        parameter.requires_grad_(trained)
    return changed


def freeze_backbone(model: nn.Module) -> None:
    """Freeze all backbone parameters, for a model without an optimizer."""
    for name, parameter in model.named_parameters():
        if _BACKBONE in name:
            parameter.requires_grad_(False)


def num_optimized(optimizer: torch.optim.Optimizer) -> int:
    """Number of parameters of an optimizer, frozen ones included."""
    return sum(p.numel() for group in optimizer.param_groups for p in group["params"])


@contextlib.contextmanager
def scaled_rates(optimizer: torch.optim.Optimizer, factor: float) -> Iterator[list[float]]:
    """Multiply all learning rates by a factor inside the ``with`` block.

    Outside the block, and therefore in checkpoints, the rates follow the schedule.

    Yields:
        the multiplied rate of each parameter group.
    """
    groups = optimizer.param_groups
    rates = [group["lr"] for group in groups]
    scaled = [rate * factor for rate in rates]
    try:
        _set_rates(groups, scaled)
        yield scaled
    finally:
        _set_rates(groups, rates)


def _set_rates(groups: list[dict[str, Any]], rates: list[float]) -> None:
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate


def update_weights(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, skip: Tensor
) -> None:
    """Take an optimizer step, or leave weights and optimizer state unchanged.

    The host waits for ``skip`` only if the optimizer is not fused.

    Args:
        scaler: gradient scaler. If enabled, it also skips steps with overflowing gradients, and
            treats ``skip`` as an overflow, which lowers its scale.
        skip: 0-d bool tensor on the device.
    """
    if scaler.is_enabled():
        _record_overflow(scaler, optimizer, skip)
        scaler.step(optimizer)
        scaler.update()
    elif all(group.get("fused") for group in optimizer.param_groups):
        fused: Any = optimizer  # GradScaler masks fused optimizers with these two attributes
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
    """Make the scaler skip the step if ``skip`` is true, without a host-device synchronization.

    The scaler checks gradients only, which may be finite although the loss is not.
    """
    if not scaler._found_inf_per_device(optimizer):  # gradients are still scaled
        scaler.unscale_(optimizer)
    # One tensor per device; PyTorch has no public access to them.
    for found_inf in scaler._found_inf_per_device(optimizer).values():
        found_inf.masked_fill_(skip.to(found_inf.device, non_blocking=True), 1)


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


class CosineToRatioLR(LRScheduler):
    """Cosine annealing of each parameter group to the same fraction of its first learning rate.

    Args:
        optimizer: has the learning rates of the first epoch.
        epochs: number of epochs after which the last rate is reached.
        min_ratio: last rate divided by first rate.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, epochs: int, min_ratio: float) -> None:
        self.epochs = epochs
        self.min_ratio = min_ratio
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """Learning rate of each parameter group in epoch ``last_epoch``."""
        return self._get_closed_form_lr()

    def _get_closed_form_lr(self) -> list[Any]:
        progress = (1 + math.cos(math.pi * self.last_epoch / self.epochs)) / 2  # from 1 to 0
        ratio = self.min_ratio + (1 - self.min_ratio) * progress
        return [first * ratio for first in self.base_lrs]


def build_lr_scheduler(
    optimizer: torch.optim.Optimizer,
    kind: str,
    epochs: int,
    lr_drop: int,
    lr_min: float,
    lr_min_ratio: float = 0.0,
) -> LRScheduler:
    """The learning-rate schedule. `training.loop.Run` steps it once per epoch.

    Args:
        optimizer: has the learning rates of the first epoch.
        kind: ``step`` divides the rates by 10 every ``lr_drop`` epochs; ``cosine`` anneals them to
            ``lr_min`` over ``epochs``, except rates that start at or below ``lr_min``.
        lr_min_ratio: above 0: ``cosine`` anneals each rate to this fraction of its first value.
    """
    if kind == "cosine" and lr_min_ratio:
        return CosineToRatioLR(optimizer, epochs, lr_min_ratio)
    if kind == "cosine":
        return CappedCosineLR(optimizer, epochs, lr_min)
    return StepLR(optimizer, lr_drop)
