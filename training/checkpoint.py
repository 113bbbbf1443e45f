"""Content of a checkpoint: its keys, saving and restoring. `training.folder` writes the file."""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from models.weights import load_model_state, model_state
from training.averaging import AveragedModel
from training.state import PROGRESS_FIELDS, RunState
from util.distributed.processes import all_gather, get_rank
from util.errors import UserError
from util.metric_logger import MetricLogger
from util.reproducibility.provenance import versions
from util.reproducibility.random_state import random_state, set_random_state

Checkpoint = Mapping[str, Any]
Thresholds = dict[str, Any] | None

# Files of the original have the first five keys; `models.weights.model_state` reads the first one.
KEYS = {
    "model": "state dict of the model",
    "optimizer": "state dict of the optimizer",
    "lr_scheduler": "state dict of the learning-rate schedule",
    "epoch": "last complete epoch, from 0; -1 before the end of the first one",
    "args": "all flags, by name; an argparse.Namespace in files of the original",
    "categories": "class names by category id",
    "is_thing": "panoptic data: whether a category id is a thing; else None",
    "category_ids": "user's id of the class in each row of the head; None: ids are row numbers",
    "ema": "state dict of the averaged weights; None without --ema_decay",
    "scaler": "state dict of the gradient scaler; None without --amp fp16",
    "rng": "per rank: random states, and running statistics of the current epoch",
    "progress": "the fields of RunState in training.state.PROGRESS_FIELDS",
    "step": "optimizer steps since the start of the run, skipped steps included",
    "versions": "versions of Python and packages, and the commit",
    "thresholds": "score thresholds with the best F1 in the last evaluation: best_f1 over all "
    "classes, by_class by category id; None without a correct detection",
    "best_weights": "in best.pth: ema, if the averaged weights scored best; else no such key",
}
_NEEDED_TO_RESUME = ("optimizer", "lr_scheduler", "epoch")


@dataclass
class TrainingState:
    """Everything that a checkpoint saves and restores, except flags and class names.

    Attributes:
        model: not wrapped in DistributedDataParallel.
        optimizer: over the model's parameters.
        lr_scheduler: over epochs.
        scaler: of ``--amp fp16``, else None.
        progress: how far the run is.
        averaged: averaged weights of ``--ema_decay``, else None.
    """

    model: nn.Module
    optimizer: Optimizer
    lr_scheduler: LRScheduler
    scaler: torch.amp.GradScaler | None
    progress: RunState
    averaged: AveragedModel | None = None


# ---- saving


def checkpoint_of(
    state: TrainingState, flags: Mapping[str, Any], classes: Mapping[str, Any]
) -> dict[str, Any]:
    """Content of a checkpoint: tensors and plain values. Collective: call on every rank.

    Args:
        state: of the run.
        flags: all flags, by name.
        classes: values for ``categories``, ``is_thing`` and ``category_ids``.

    Returns:
        values for the keys in `KEYS`.
    """
    progress = state.progress
    progress.share_bad_images()
    return {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "lr_scheduler": state.lr_scheduler.state_dict(),
        "epoch": progress.epoch - 1,
        "args": dict(flags),
        **classes,
        "ema": None if state.averaged is None else state.averaged.module.state_dict(),
        "scaler": None if state.scaler is None else state.scaler.state_dict(),
        "rng": all_gather({"random": random_state(), "meters": progress.meters}),
        "progress": {name: getattr(progress, name) for name in PROGRESS_FIELDS},
        "step": progress.step,
        "versions": versions(),
        "thresholds": progress.thresholds,
    }


def with_thresholds(
    checkpoint: Checkpoint, thresholds: Thresholds, ema_thresholds: Thresholds
) -> dict[str, Any]:
    """Content of a checkpoint with the thresholds of its evaluation, see `RunState`."""
    progress = {**checkpoint["progress"], "ema_thresholds": ema_thresholds}
    return {**checkpoint, "thresholds": thresholds, "progress": progress}


def best_checkpoint(checkpoint: Checkpoint, weights: str) -> dict[str, Any]:
    """Content of ``best.pth``, with the thresholds of its best weights.

    Args:
        checkpoint: the best one.
        weights: key of its weights that scored best.
    """
    best = {**checkpoint, "best_weights": weights}
    if weights == "ema":
        best["thresholds"] = checkpoint["progress"].get("ema_thresholds")
    return best


# ---- reading single entries


def flags_in(checkpoint: Checkpoint, source: str) -> dict[str, Any]:
    """The flags that a checkpoint was trained with; empty for released files, which hold none.

    Raises:
        UserError: its ``args`` are not flags.
    """
    saved: Any = checkpoint.get("args")
    if isinstance(saved, Namespace):
        return vars(saved)
    if saved is None or isinstance(saved, dict):
        return saved or {}
    raise UserError(
        f"{source}: its 'args' are not flags but {type(saved).__name__}; load its weights alone "
        "with --finetune"
    )


def is_of_original(checkpoint: Checkpoint) -> bool:
    """Whether the original codebase wrote a checkpoint: its flags are an argparse.Namespace."""
    return isinstance(checkpoint.get("args"), Namespace)


def classes_in(checkpoint: Checkpoint) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Names and thing flags of classes by category id; empty where a checkpoint has none."""
    entries = (checkpoint.get(key) for key in ("categories", "is_thing"))
    names, is_thing = (dict(e) if isinstance(e, Mapping) else {} for e in entries)
    return names, is_thing


def averaged_weights_in(checkpoint: Checkpoint, source: str) -> dict[str, Tensor] | None:
    """State dict of the averaged weights; None where a checkpoint has none.

    Raises:
        UserError: the entry is not a state dict.
    """
    saved = checkpoint.get("ema")
    return model_state({"model": saved}, source) if saved else None


def best_f1_threshold_in(checkpoint: Checkpoint, averaged: bool) -> float | None:
    """Score threshold with the best F1 in the last evaluation; None where a checkpoint has none.

    Args:
        checkpoint: of any program.
        averaged: of the averaged weights, not of the raw weights.
    """
    found = checkpoint.get("thresholds")
    if averaged != (checkpoint.get("best_weights") == "ema"):
        progress: Any = checkpoint.get("progress") if averaged else None
        found = progress.get("ema_thresholds") if isinstance(progress, Mapping) else None
    best = found.get("best_f1") if isinstance(found, Mapping) else None
    return float(best) if isinstance(best, int | float) and 0 <= best <= 1 else None


def position_in(checkpoint: Checkpoint) -> tuple[Any, Any]:
    """Last complete epoch and number of optimizer steps, not validated."""
    return checkpoint.get("epoch"), checkpoint.get("step", 0)


def report_better_average(checkpoint: Checkpoint, source: str, way_out: str) -> None:
    """Print that the averaged weights in a ``best.pth`` scored better than the raw ones, if so.

    Args:
        checkpoint: its raw weights are used.
        source: path of the checkpoint.
        way_out: how to use the averaged weights.
    """
    if checkpoint.get("best_weights") == "ema" and checkpoint.get("ema"):
        print(f"{source}: raw weights are used, its averaged weights scored better: {way_out}")


def can_resume(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds more than weights: optimizer, schedule and epoch."""
    return all(key in checkpoint for key in _NEEDED_TO_RESUME)


def report_other_versions(checkpoint: Checkpoint) -> None:
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


# ---- restoring


def restore_weights(model: nn.Module, checkpoint: Checkpoint, source: str) -> None:
    """Load the weights of a checkpoint, which must fit exactly.

    Raises:
        UserError: they do not fit.
    """
    load_model_state(model, model_state(checkpoint, source), source)


def restore_average(
    averaged: AveragedModel, checkpoint: Checkpoint, source: str, num_updates: int
) -> None:
    """Load the averaged weights of a checkpoint, if it has them.

    Args:
        averaged: changed in place.
        checkpoint: of the run that continues, or is evaluated.
        source: path of the checkpoint.
        num_updates: how many steps they are averages of.

    Raises:
        UserError: they do not fit.
    """
    weights = averaged_weights_in(checkpoint, source)
    if weights is not None:
        load_model_state(averaged.module, weights, source)
        averaged.num_updates = num_updates


def restored_progress(checkpoint: Checkpoint) -> RunState:
    """How far a run is; a file of the original is at the beginning of an epoch.

    The random generators of this process are restored too.

    Raises:
        UserError: the entries are invalid.
    """
    try:
        saved = checkpoint.get("progress", {})
        known = {name: saved[name] for name in PROGRESS_FIELDS if name in saved}
        epoch, step = position_in(checkpoint)
        thresholds = checkpoint.get("thresholds")
        progress = RunState(epoch=epoch + 1, step=step, thresholds=thresholds, **known)
        progress.check()
        ranks = checkpoint.get("rng", [])
        if get_rank() < len(ranks):
            progress.meters = ranks[get_rank()]["meters"]
            MetricLogger().load_state_dict(progress.meters)
            set_random_state(ranks[get_rank()]["random"])
    except Exception as err:  # a foreign file may hold anything here
        raise UserError(
            f"the checkpoint's state of the run cannot be used ({err}); start from its weights "
            "with --finetune"
        ) from err
    return progress
