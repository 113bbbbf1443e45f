"""What a resumed run takes from its checkpoint, and what from the command line."""

import argparse
import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR

from util.checkpoint import load_checkpoint
from util.distributed import all_gather
from util.errors import UserError
from util.options import NEW_FLAG_DEFAULTS
from util.provenance import versions
from util.run_folder import RunFolder

# Given on the command line they win over the checkpoint, which otherwise decides.
_SCHEDULE = ("lr", "lr_backbone", "weight_decay", "lr_scheduler", "lr_drop", "lr_min")
# They belong to a start, not to a run.
_OF_A_START = frozenset(
    {
        *("resume", "auto_resume", "start_epoch", "output_dir", "eval", "dump_detections"),
        *("rank", "world_size", "gpu", "dist_url", "dist_backend", "distributed", "finetune"),
        *("dist_timeout", "overwrite"),
    }
)


# What flags decide on, and its attribute in the schedule.
_SHAPES: dict[type, dict[str, str]] = {
    CosineAnnealingLR: {"T_max": "epochs", "eta_min": "lr_min"},
    StepLR: {"step_size": "lr_drop"},
}


def find_checkpoint(args: argparse.Namespace, folder: RunFolder) -> dict[str, Any] | None:
    """Read the checkpoint to continue: the newest one for ``--auto_resume``, else ``--resume``.

    All processes must call it. With ``--auto_resume`` the flags ``resume`` and ``finetune`` are
    changed to what holds.

    Returns:
        None where a run begins.

    Raises:
        UserError: it cannot be read, or not all processes find the same.
    """
    complaint: UserError | None = None
    checkpoint = None
    try:
        if args.auto_resume and (newest := folder.load_newest()):
            args.resume, args.finetune = str(newest[0]), ""
            print(f"Continuing from {args.resume}")
            checkpoint = newest[1]
        elif args.resume:
            checkpoint = load_checkpoint(args.resume)
    except UserError as err:
        complaint = err
    _refuse_different(_mark(checkpoint, complaint))
    if complaint is not None:
        raise complaint
    return checkpoint


def _mark(checkpoint: dict[str, Any] | None, complaint: UserError | None) -> str:
    """By which processes see whether they have found the same."""
    if complaint is not None:
        return complaint.one_line()
    if checkpoint is None:
        return "none"
    return f"one of epoch {checkpoint.get('epoch')}, step {checkpoint.get('step')}"


def _refuse_different(mark: str) -> None:
    marks = all_gather(mark)
    other = next((rank for rank, one in enumerate(marks) if one != marks[0]), None)
    if other is not None:
        raise UserError(
            "--output_dir, --auto_resume, --resume: the processes find different checkpoints "
            f"(process 0: {marks[0]}; process {other}: {marks[other]}); "
            "all machines must see one folder"
        )


def restore_optimizer(
    optimizer: Optimizer,
    scheduler: LRScheduler,
    scaler: torch.amp.GradScaler | None,
    checkpoint: dict[str, Any],
    source: str,
) -> None:
    """Load the state of optimizer, schedule and scaler.

    Raises:
        UserError: they belong to other parameters, or make no sense.
    """
    try:
        optimizer.load_state_dict(_in_own_layout(optimizer, checkpoint["optimizer"]))
        _restore_schedule(scheduler, checkpoint["lr_scheduler"])
        if scaler is not None and checkpoint.get("scaler"):
            saved = checkpoint["scaler"]
            scaler.load_state_dict({name: _number(value) for name, value in saved.items()})
    except Exception as err:  # whatever a foreign file holds in these places
        raise UserError(
            f"--resume {source}: its optimizer, schedule or scaler does not fit ({err}); give the "
            f"same --lr_backbone, --backbone_norm and --frozen_weights, or --finetune {source}"
        ) from err


def _in_own_layout(optimizer: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """A state dict with the rates and moments of ``saved``, all else as the optimizer has it.

    Files written without the fused kernel, as those of the original are, go on with it. PyTorch
    compares no more than the number of parameters.

    Raises:
        ValueError: parameters differ in number or shape.
    """
    groups = optimizer.state_dict()["param_groups"]
    sizes = [[len(group["params"]) for group in side] for side in (saved["param_groups"], groups)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"{sizes[0]} parameters in its groups, not {sizes[1]}")
    state = {}
    for own, given, live in zip(groups, saved["param_groups"], optimizer.param_groups, strict=True):
        own.update({name: _number(given[name]) for name in ("lr", "initial_lr", "weight_decay")})
        for number, theirs, p in zip(own["params"], given["params"], live["params"], strict=True):
            if theirs in saved["state"]:
                state[number] = _moments(saved["state"][theirs], p, number)
    return {"state": state, "param_groups": groups}


def _moments(saved: dict[str, Any], parameter: Tensor, number: int) -> dict[str, Tensor]:
    moments = {name: saved[name] for name in ("exp_avg", "exp_avg_sq")}
    for name, values in moments.items():
        if values.shape != parameter.shape:
            raise ValueError(
                f"{name} of parameter {number} is {tuple(values.shape)}, not "
                f"{tuple(parameter.shape)}"
            )
    return {"step": torch.tensor(_number(float(saved["step"]))), **moments}


def _number(value: Any) -> Any:
    """``value``, if it is a finite number.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return value


def _restore_schedule(scheduler: LRScheduler, saved: dict[str, Any]) -> None:
    """Load a schedule, or of one of another kind no more than how far it is."""
    if type(saved["last_epoch"]) is not int or saved["last_epoch"] < 0:
        raise ValueError(f"{saved['last_epoch']!r} epochs are done")
    scheduler.last_epoch = saved["last_epoch"]
    scheduler._step_count = saved["last_epoch"] + 1
    for name in _SHAPES[type(scheduler)]:
        # None, so that `apply_schedule` sees a change
        setattr(scheduler, name, _number(saved[name]) if name in saved else None)
    scheduler.base_lrs = [group["initial_lr"] for group in scheduler.optimizer.param_groups]
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]


def tell_other_versions(checkpoint: dict[str, Any]) -> None:
    """Print which versions have changed since a checkpoint was written: bits may differ then."""
    saved = checkpoint.get("versions")
    if not isinstance(saved, dict):
        return
    changed = [
        f"{name} {saved[name]} -> {now}"
        for name, now in versions().items()
        if name in saved and saved[name] != now
    ]
    if changed:
        print(
            f"Versions since the checkpoint: {', '.join(changed)}; numbers may differ by rounding"
        )


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

    Raises:
        UserError: what the checkpoint holds as flags is something else.
    """
    saved: Any = checkpoint.get("args", {})
    saved = vars(saved) if isinstance(saved, argparse.Namespace) else saved
    if not isinstance(saved, dict):
        raise UserError(
            f"--resume {args.resume}: its 'args' are no flags; take its weights with --finetune"
        )
    sentences = _other_processes(saved, args)
    if saved:  # a flag that is younger than the checkpoint had its default
        saved = {k: v for k, v in NEW_FLAG_DEFAULTS.items() if v is not None} | saved
    for name, now in sorted(vars(args).items()):
        if name in _OF_A_START or name not in saved or not _differ(saved[name], now):
            continue
        if name in _SCHEDULE and name not in given and _is_like(saved[name], now):
            setattr(args, name, saved[name])  # what stands against it is a default
            continue
        sentences.append(f"--{name}: {saved[name]} in the checkpoint, now {now}")
    return sentences


def _other_processes(saved: dict[str, Any], args: argparse.Namespace) -> list[str]:
    before, now = (flags.get("world_size") or 1 for flags in (saved, vars(args)))
    if not isinstance(before, int) or before == now:
        return []
    return [f"{before} processes in the checkpoint, now {now}: a step has another number of images"]


def _differ(saved: Any, now: Any) -> bool:
    """Whether two values of a flag do; a foreign file may hold what cannot be compared."""
    if isinstance(saved, int | float) and isinstance(now, int | float):
        return saved != now
    return repr(saved) != repr(now)


def _is_like(saved: Any, now: Any) -> bool:
    """Whether a saved value can stand in the place of one of the command line."""
    if isinstance(now, str):
        return isinstance(saved, str)
    if isinstance(now, int):
        return type(saved) is int and saved > 0
    return isinstance(saved, int | float) and 0 <= saved < math.inf


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
    wanted = {name: getattr(args, flag) for name, flag in _SHAPES[type(scheduler)].items()}
    changed |= any(getattr(scheduler, name) != value for name, value in wanted.items())
    if not changed:
        return False
    vars(scheduler).update(wanted, base_lrs=[args.lr, args.lr_backbone], last_epoch=epochs_done)
    for group, lr in zip(optimizer.param_groups, _closed_form(scheduler), strict=True):
        group["lr"] = lr
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]
    return True


def _closed_form(scheduler: LRScheduler) -> list[float]:
    """Learning rates of a schedule by its own formula, whatever they were before."""
    assert isinstance(scheduler, CosineAnnealingLR | StepLR)
    return list(map(float, scheduler._get_closed_form_lr()))
