"""What a resumed run takes from its checkpoint, and what from the command line."""

import argparse
from collections.abc import Collection
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR

from util.errors import UserError

# Given on the command line they win over the checkpoint, which otherwise decides.
_SCHEDULE = ("lr", "lr_backbone", "weight_decay", "lr_scheduler", "lr_drop", "lr_min")
# They belong to a start, not to a run.
_OF_A_START = frozenset(
    {
        *("resume", "auto_resume", "start_epoch", "output_dir", "eval", "dump_detections"),
        *("rank", "world_size", "gpu", "dist_url", "dist_backend", "distributed", "finetune"),
    }
)


def restore_optimizer(
    optimizer: Optimizer, scheduler: LRScheduler, checkpoint: dict[str, Any], source: str
) -> None:
    """Load the state of optimizer and schedule.

    Raises:
        UserError: they belong to other parameters.
    """
    try:
        optimizer.load_state_dict(checkpoint["optimizer"])
        _restore_schedule(scheduler, checkpoint["lr_scheduler"])
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise UserError(
            f"--resume {source}: its optimizer trains other parameters; give the same "
            f"--lr_backbone, --backbone_norm and --frozen_weights, or --finetune {source}"
        ) from err

    _fuse(optimizer)


def _restore_schedule(scheduler: LRScheduler, saved: dict[str, Any]) -> None:
    """Load a schedule, or of one of another kind no more than how far it is."""
    kind = "T_max" if isinstance(scheduler, CosineAnnealingLR) else "step_size"
    if kind in saved:
        scheduler.load_state_dict(saved)
    else:
        scheduler.last_epoch = saved["last_epoch"]
        setattr(scheduler, kind, None)  # so that `apply_schedule` sees a change


def _fuse(optimizer: Optimizer) -> None:
    """Keep the fused kernel where a file was written without, as those of the original are."""
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, None
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if "step" in state:
                step = float(state["step"])
                state["step"] = torch.tensor(step, dtype=torch.float32, device=parameter.device)


def settle_flags(
    args: argparse.Namespace, checkpoint: dict[str, Any], given: Collection[str]
) -> list[str]:
    """Decide between the flags of a checkpoint and those of the command line.

    Rates and schedule are the checkpoint's unless they are given now; ``args`` is changed to what
    holds.

    Args:
        args: all flags.
        checkpoint: may hold ``args``, a dict or a Namespace.
        given: names of the flags that are on the command line.

    Returns:
        a sentence for each flag that differs, with both values.
    """
    saved = checkpoint.get("args", {})
    saved = saved if isinstance(saved, dict) else vars(saved)
    sentences = []
    for name, now in sorted(vars(args).items()):
        if name in _OF_A_START or name not in saved or saved[name] == now:
            continue
        if name in _SCHEDULE and name not in given:
            setattr(args, name, saved[name])  # what stands against it is a default
            continue
        sentences.append(f"--{name}: {saved[name]} in the checkpoint, now {now}")
    return sentences


def apply_schedule(
    optimizer: Optimizer, scheduler: LRScheduler, args: argparse.Namespace, epochs_done: int
) -> bool:
    """Let rates, weight decay and schedule be those of the flags, if they are not already.

    Args:
        optimizer: restored.
        scheduler: restored.
        args: what `settle_flags` has left.
        epochs_done: how far the schedule is.

    Returns:
        whether anything has changed.
    """
    changed = False
    for group, base in zip(optimizer.param_groups, (args.lr, args.lr_backbone), strict=True):
        changed |= group["weight_decay"] != args.weight_decay or group["initial_lr"] != base
        group["weight_decay"], group["initial_lr"] = args.weight_decay, base
    wanted = _shape(scheduler, args)
    changed |= any(getattr(scheduler, name) != value for name, value in wanted.items())
    if not changed:
        return False
    vars(scheduler).update(wanted, base_lrs=[args.lr, args.lr_backbone])
    for group, lr in zip(optimizer.param_groups, _rates_after(scheduler, epochs_done), strict=True):
        group["lr"] = lr
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]
    return True


def _shape(scheduler: LRScheduler, args: argparse.Namespace) -> dict[str, Any]:
    """The attributes of a schedule that flags decide on."""
    if isinstance(scheduler, CosineAnnealingLR):
        return {"T_max": args.epochs, "eta_min": args.lr_min}
    assert isinstance(scheduler, StepLR)
    return {"step_size": args.lr_drop}


def _rates_after(scheduler: LRScheduler, epochs: int) -> list[float]:
    """Learning rates of a schedule from its beginning, by its own formula."""
    assert isinstance(scheduler, CosineAnnealingLR | StepLR)
    assert scheduler.last_epoch == epochs
    return list(map(float, scheduler._get_closed_form_lr()))
