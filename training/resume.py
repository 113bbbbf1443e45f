"""What a resumed run takes from its checkpoint, beside flags: optimizer, schedule, scaler."""

import argparse
import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR

from training.folder import RunFolder
from util.distributed.agreement import fingerprint
from util.distributed.processes import all_gather, get_world_size
from util.errors import UserError
from util.files.checkpoint import load_checkpoint
from util.optimizer import CappedCosineLR
from util.provenance import versions

# What flags decide on, and its attribute in the schedule.
_SHAPES: dict[type, dict[str, str]] = {
    CappedCosineLR: {"T_max": "epochs", "eta_min": "lr_min"},
    StepLR: {"step_size": "lr_drop"},
}


@dataclass(frozen=True)
class Start:
    """The checkpoints that a run starts from; None where there is none.

    Attributes:
        resume: continued, or evaluated: of ``--resume`` or ``--auto_resume``.
        finetune: of ``--finetune``.
        frozen: of ``--frozen_weights``; not read where a checkpoint is resumed, which holds them.
    """

    resume: dict[str, Any] | None = None
    finetune: dict[str, Any] | None = None
    frozen: dict[str, Any] | None = None


def find_start(args: argparse.Namespace, folder: RunFolder) -> tuple[argparse.Namespace, Start]:
    """Read the checkpoints that the flags name. Collective: call on every rank.

    Args:
        args: all flags; not changed.
        folder: searched for ``--auto_resume``.

    Returns:
        the flags with the file that was found under ``--resume``, and the checkpoints.

    Raises:
        UserError: a file cannot be read, or not all processes find the same.
    """
    args = copy.copy(args)
    complaint: UserError | None = None
    start = Start()
    try:
        if args.auto_resume and (newest := folder.load_newest()):
            args.resume, args.finetune = str(newest[0]), ""
            print(f"Continuing from {args.resume}")
            start = Start(resume=newest[1])
        elif args.resume:
            start = Start(resume=load_checkpoint(args.resume))
        else:
            start = Start(
                finetune=load_checkpoint(args.finetune) if args.finetune else None,
                frozen=load_checkpoint(args.frozen_weights) if args.frozen_weights else None,
            )
    except UserError as err:
        complaint = err
    _refuse_different(_mark(start.resume, complaint))
    if complaint is not None:
        raise complaint
    return args, start


def _mark(checkpoint: dict[str, Any] | None, complaint: UserError | None) -> str:
    """By which processes see whether they have found the same."""
    if complaint is not None:
        return complaint.one_line()
    if checkpoint is None:
        return "none"
    where = f"one of epoch {checkpoint.get('epoch')}, step {checkpoint.get('step')}"
    # Another file of the same step has other moments, which would let weights drift apart.
    return where if get_world_size() == 1 else f"{where} (hash {fingerprint(checkpoint)})"


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
            own, saved = scaler.state_dict(), checkpoint["scaler"]
            scaler.load_state_dict({name: _number(saved[name], type(own[name])) for name in own})
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
    """Adam's state of a parameter, in the parameter's memory layout.

    The fused kernel reads parameter, gradient and moments in the order of memory. With ``--amp``
    convolution weights are channels-last, so moments saved without it would be permuted.
    """
    moments = {name: saved[name] for name in ("exp_avg", "exp_avg_sq")}
    for name, values in moments.items():
        if values.shape != parameter.shape:
            raise ValueError(
                f"{name} of parameter {number} is {tuple(values.shape)}, not "
                f"{tuple(parameter.shape)}"
            )
        moments[name] = torch.empty_like(parameter, requires_grad=False).copy_(values)
    return {"step": torch.tensor(_number(float(saved["step"]))), **moments}


def _number(value: Any, kind: type = float) -> Any:
    """``value``, if it is a finite number, and an integer where ``kind`` is ``int``.

    Raises:
        ValueError: it is not.
    """
    kinds = (int,) if kind is int else (int, float)
    if type(value) not in kinds or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite {kind.__name__}")
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


def apply_schedule(
    optimizer: Optimizer, scheduler: LRScheduler, args: argparse.Namespace, epochs_done: int
) -> bool:
    """Let rates, weight decay and schedule be those of the flags, if they are not already.

    Args:
        optimizer: restored.
        scheduler: restored.
        args: what `training.saved_flags.settle_resumed` returned.
        epochs_done: how far the schedule is.

    Returns:
        whether anything has changed.
    """
    changed = False
    for group, base in zip(optimizer.param_groups, (args.lr, args.lr_backbone), strict=True):
        changed |= group["weight_decay"] != args.weight_decay or group["initial_lr"] != base
        changed |= group["lr"] > base  # of a cosine schedule that was written without its cap
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
    assert isinstance(scheduler, CappedCosineLR | StepLR)
    return list(map(float, scheduler._get_closed_form_lr()))
