"""Build optimizer, learning-rate schedule and gradient scaler, or restore their state."""

import argparse
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR

from util.errors import UserError
from util.optimizer import CappedCosineLR, CosineToRatioLR, build_lr_scheduler, build_optimizer

Optimization: TypeAlias = tuple[Optimizer, LRScheduler, torch.amp.GradScaler | None]

# Flag that sets each hyperparameter of a schedule, by the scheduler's attribute.
SCHEDULE_FLAGS: dict[type, dict[str, str]] = {
    CappedCosineLR: {"T_max": "epochs", "eta_min": "lr_min"},
    CosineToRatioLR: {"epochs": "epochs", "min_ratio": "lr_min_ratio"},
    StepLR: {"step_size": "lr_drop"},
}


def build_optimization(args: argparse.Namespace, model: nn.Module) -> Optimization:
    """Optimizer, learning-rate schedule, and gradient scaler for ``--amp fp16``."""
    optimizer = build_optimizer(
        model, args.lr, args.lr_backbone, args.weight_decay, args.optimizer, args.momentum
    )
    lr_scheduler = build_lr_scheduler(
        optimizer, args.lr_scheduler, args.epochs, args.lr_drop, args.lr_min, args.lr_min_ratio
    )
    device = torch.device(args.device)
    scaler = torch.amp.GradScaler(device.type) if args.amp == "fp16" else None
    return optimizer, lr_scheduler, scaler


def restore_optimizer(
    optimizer: Optimizer,
    scheduler: LRScheduler,
    scaler: torch.amp.GradScaler | None,
    checkpoint: Mapping[str, Any],
    source: str,
) -> None:
    """Load the state of optimizer, schedule and scaler, in place.

    Args:
        optimizer: optimizer of the model's parameters.
        scheduler: learning-rate schedule of the run.
        scaler: gradient scaler for ``--amp fp16``, or None.
        checkpoint: entries by key, see `training.checkpoint.KEYS`.

    Raises:
        UserError: if an entry does not match the parameters or is invalid.
    """
    try:
        optimizer.load_state_dict(_in_own_layout(optimizer, checkpoint["optimizer"]))
        _restore_schedule(scheduler, checkpoint["lr_scheduler"])
        if scaler is not None and checkpoint.get("scaler"):
            own, saved = scaler.state_dict(), checkpoint["scaler"]
            scaler.load_state_dict({name: _number(saved[name], type(own[name])) for name in own})
    except Exception as err:  # files of other origin may contain anything here
        raise UserError(
            f"--resume {source}: cannot restore its optimizer, schedule or scaler ({err}); use the "
            "same --optimizer, --lr_backbone, --backbone_norm and --frozen_weights as the run, or "
            f"start a new run with --finetune {source}"
        ) from err


def _in_own_layout(optimizer: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """State dict of this optimizer with saved learning rates, weight decay and moments.

    All other options keep their current values, so that files saved without the fused kernel (such
    as the original's) can be resumed with it. Parameters without saved moments (frozen
    backbone) keep their current state. PyTorch itself does not compare shapes.
    """
    groups, state = (optimizer.state_dict()[name] for name in ("param_groups", "state"))
    sizes = [[len(group["params"]) for group in side] for side in (saved["param_groups"], groups)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"parameters per group are {sizes[0]}, expected {sizes[1]}")
    for own, given, live in zip(groups, saved["param_groups"], optimizer.param_groups, strict=True):
        own.update({name: _number(given[name]) for name in ("lr", "initial_lr", "weight_decay")})
        for number, theirs, p in zip(own["params"], given["params"], live["params"], strict=True):
            if theirs in saved["state"]:
                moments = _moments(saved["state"][theirs], p, number, _state_names(optimizer))
                state[number] = state.get(number, {}) | moments
    return {"state": state, "param_groups": groups}


def _state_names(optimizer: Optimizer) -> tuple[str, ...]:
    """Names of the values that an optimizer stores per parameter."""
    if isinstance(optimizer, SGD):
        return ("momentum_buffer",)
    return ("exp_avg", "exp_avg_sq", "step")


def _moments(
    saved: dict[str, Any], parameter: Tensor, number: int, names: Iterable[str]
) -> dict[str, Tensor]:
    """Optimizer state of a parameter, in the parameter's memory format.

    The fused kernel reads parameter, gradient and moments in memory order. With ``--amp``
    convolution weights are channels-last, so moments saved without it would be permuted.
    """
    moments = {}
    for name in names:
        values = saved[name]
        if name == "step":
            moments[name] = torch.tensor(_number(float(values)))
        elif values is None and name == "momentum_buffer":  # written with --momentum 0
            continue
        elif values.shape != parameter.shape:
            raise ValueError(
                f"{name} of parameter {number} has shape {tuple(values.shape)}, expected "
                f"{tuple(parameter.shape)}"
            )
        else:
            moments[name] = torch.empty_like(parameter, requires_grad=False).copy_(values)
    return moments


def _number(value: Any, kind: type = float) -> Any:
    """Return ``value`` if it is a finite 64-bit number, and an integer if ``kind`` is ``int``."""
    kinds = (int,) if kind is int else (int, float)
    if type(value) not in kinds or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite {kind.__name__}")
    if type(value) is int and abs(value) >= 2**63:
        raise ValueError(f"{value} is too large")
    return value


def _restore_schedule(scheduler: LRScheduler, saved: dict[str, Any]) -> None:
    """Load the state of a schedule; from a different kind of schedule only the epoch number."""
    if type(saved["last_epoch"]) is not int or saved["last_epoch"] < 0:
        raise ValueError(f"last_epoch is {saved['last_epoch']!r}, expected a non-negative integer")
    scheduler.last_epoch = saved["last_epoch"]
    scheduler._step_count = saved["last_epoch"] + 1
    for name in SCHEDULE_FLAGS[type(scheduler)]:
        # None: missing in the file, so `training.resume.apply_schedule` resets the schedule.
        setattr(scheduler, name, _number(saved[name]) if name in saved else None)
    scheduler.base_lrs = [group["initial_lr"] for group in scheduler.optimizer.param_groups]
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]
