"""Keys of a checkpoint: build it from the training state, and restore the state from it.

`training.run_files` writes the file.
"""

import copy
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from datasets.annotations.class_tables import table_of_checkpoint
from models.weights import assumed_cls_loss, model_state
from training.averaging import AveragedModel
from training.progress import PROGRESS_FIELDS, Progress
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
    "is_thing": "panoptic data: whether each category id is a thing; else None",
    "category_ids": "category id of each row of the head; None: row numbers are category ids",
    "split": "names of train and val images, if images were held out; else None; in files of "
    "export.weights hashes of the names",
    "data": "number of images and objects, and a hash, of training and validation data",
    "ema": "state dict of the EMA weights; None without --ema_decay",
    "scaler": "state dict of the gradient scaler; None without --amp fp16",
    "rng": "per rank: random states; log averages of the current epoch, equal on all ranks",
    "progress": "fields of Progress listed in training.progress.PROGRESS_FIELDS",
    "step": "optimizer steps since the start of the run, skipped steps included",
    "versions": "versions of Python and packages, and the git commit",
    "thresholds": "score thresholds with the best F1 in the evaluation of these weights: best_f1 "
    "over all classes, by_class by category id; None if the weights were not evaluated, or no "
    "detection was correct",
    "best_weights": "only in best.pth, value 'ema': the EMA weights scored best",
}
_NEEDED_TO_RESUME = ("optimizer", "lr_scheduler", "epoch")


@dataclass
class TrainingState:
    """Model, optimizer and progress, as saved in and restored from a checkpoint.

    Attributes:
        model: the model, not wrapped in DistributedDataParallel.
        optimizer: optimizer of the model's parameters.
        lr_scheduler: learning-rate schedule, stepped once per epoch.
        scaler: gradient scaler for ``--amp fp16``, or None.
        progress: training progress.
        averaged: EMA weights for ``--ema_decay``, or None.
    """

    model: nn.Module
    optimizer: Optimizer
    lr_scheduler: LRScheduler
    scaler: torch.amp.GradScaler | None
    progress: Progress
    averaged: AveragedModel | None = None


# ---- saving


def checkpoint_of(
    state: TrainingState, flags: Mapping[str, Any], classes: Mapping[str, Any]
) -> dict[str, Any]:
    """Build a checkpoint from tensors and plain values. Collective: call on every rank.

    Args:
        classes: values for ``categories``, ``is_thing``, ``category_ids``, ``split`` and ``data``.

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
        "progress": {name: copy.copy(getattr(progress, name)) for name in PROGRESS_FIELDS},
        "step": progress.step,
        "versions": versions(),
        "thresholds": progress.thresholds,
    }


def with_thresholds(
    checkpoint: Checkpoint, thresholds: Thresholds, ema_thresholds: Thresholds
) -> dict[str, Any]:
    """Copy of a checkpoint with these thresholds, see `Progress`."""
    progress = {**checkpoint["progress"], "ema_thresholds": ema_thresholds}
    return {**checkpoint, "thresholds": thresholds, "progress": progress}


def best_checkpoint(checkpoint: Checkpoint, weights: str) -> dict[str, Any]:
    """Content of ``best.pth``, with the thresholds of the weights that scored best.

    Args:
        weights: key of the weights that scored best.
    """
    best = {**checkpoint, "best_weights": weights}
    if weights == "ema":
        best["thresholds"] = checkpoint["progress"].get("ema_thresholds")
    return best


# ---- reading single entries


def flags_in(checkpoint: Checkpoint, source: str) -> dict[str, Any]:
    """Flags that a checkpoint was trained with; empty for released files, which store none.

    Raises:
        UserError: if the entry ``args`` is neither a dict nor an argparse.Namespace.
    """
    saved: Any = checkpoint.get("args")
    if isinstance(saved, Namespace):
        return vars(saved)
    if saved is None or isinstance(saved, dict):
        return saved or {}
    raise UserError(
        f"{source}: its 'args' are not flags but of type {type(saved).__name__}; load only its "
        "weights with --finetune"
    )


def cls_loss_in(checkpoint: Checkpoint, source: str) -> str:
    """Classification loss that a checkpoint was trained with: ``ce`` or ``focal``.

    If the file does not store it: see `models.weights.assumed_cls_loss`.

    Raises:
        UserError: if the checkpoint is invalid.
    """
    flags = flags_in(checkpoint, source)
    if "cls_loss" in flags:
        return str(flags["cls_loss"])
    return assumed_cls_loss(model_state(checkpoint, source))


def is_of_original(checkpoint: Checkpoint) -> bool:
    """Whether the original wrote a checkpoint; assumed if ``args`` is an argparse.Namespace."""
    return isinstance(checkpoint.get("args"), Namespace)


def classes_in(checkpoint: Checkpoint) -> tuple[dict[int, str], dict[int, bool]]:
    """Class names and thing flags by category id; empty if the checkpoint has none."""
    table = table_of_checkpoint("", checkpoint)
    return dict(table.names), dict(table.is_thing)


def averaged_weights_in(checkpoint: Checkpoint, source: str) -> dict[str, Tensor] | None:
    """State dict of the EMA weights; None if the checkpoint has none.

    Raises:
        UserError: if the entry is not a state dict.
    """
    saved = checkpoint.get("ema")
    return model_state({"model": saved}, source) if saved else None


def best_f1_threshold_in(checkpoint: Checkpoint, averaged: bool) -> float | None:
    """Score threshold with the best F1 of these weights; None if the checkpoint has none.

    Args:
        checkpoint: content of a file, not validated.
        averaged: whether to return the threshold of the EMA weights.
    """
    found = checkpoint.get("thresholds")
    if averaged != (checkpoint.get("best_weights") == "ema"):
        progress: Any = checkpoint.get("progress") if averaged else None
        found = progress.get("ema_thresholds") if isinstance(progress, Mapping) else None
    best: Any = found.get("best_f1") if isinstance(found, Mapping) else None
    return float(best) if type(best) in (int, float) and 0 <= best <= 1 else None


def position_in(checkpoint: Checkpoint) -> tuple[Any, Any]:
    """Last completed epoch and number of optimizer steps, not validated."""
    return checkpoint.get("epoch"), checkpoint.get("step", 0)


def report_better_average(checkpoint: Checkpoint, source: str, hint: str) -> None:
    """Print a notice if a checkpoint also has EMA weights (``best.pth``: if they scored better).

    Args:
        checkpoint: checkpoint whose raw weights are used.
        hint: how to use the EMA weights.
    """
    if not checkpoint.get("ema"):
        return
    if checkpoint.get("best_weights") == "ema":
        averaged = "but the averaged (EMA) weights scored better"
    else:
        averaged = "not its averaged (EMA) weights"
    print(f"{source}: the raw weights are used, {averaged}: {hint}")


def can_resume(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint contains optimizer, schedule and epoch, not only weights."""
    return all(key in checkpoint for key in _NEEDED_TO_RESUME)


def report_other_versions(checkpoint: Checkpoint) -> None:
    """Print the versions that have changed since a checkpoint was written."""
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
            f"Changed since the checkpoint was written: {', '.join(changed)}; results may differ "
            "by rounding"
        )


# ---- restoring


def restored_progress(checkpoint: Checkpoint) -> Progress:
    """Read the training progress, and restore the random generators of this rank.

    The original writes checkpoints only between two epochs.

    Raises:
        UserError: if entries are invalid.
    """
    try:
        saved = checkpoint.get("progress", {})
        known = {name: saved[name] for name in PROGRESS_FIELDS if name in saved}
        epoch, step = position_in(checkpoint)
        thresholds = checkpoint.get("thresholds")
        progress = Progress(epoch=epoch + 1, step=step, thresholds=thresholds, **known)
        progress.check()
        ranks = checkpoint.get("rng", [])
        if len(ranks) > 0:
            progress.meters = ranks[0]["meters"]  # equal on all ranks, also if there are more now
            MetricLogger().load_state_dict(progress.meters)
        if get_rank() < len(ranks):
            set_random_state(ranks[get_rank()]["random"])
    except Exception as err:  # a foreign file may hold anything here
        raise UserError(
            f"the training progress in the checkpoint is invalid ({err}); start a new run from its "
            "weights with --finetune"
        ) from err
    return progress
