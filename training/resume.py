"""Find and load the checkpoints that a run starts from.

`main` calls `find_start` before the model is built, because flags in a checkpoint determine the
architecture; then `load_weights`, and `resume_training` for optimizer and progress.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR

from models.backbone import BODY, load_resnet_weights
from models.finetuning import HeadClasses, finetune_model
from models.segmentation import DETRsegm
from models.weights import (
    has_backbone_of,
    load_frozen_weights,
    load_model_state,
    model_state,
    without_ddp_prefix,
)
from training.averaging import AveragedModel
from training.checkpoint import (
    TrainingState,
    averaged_weights_in,
    can_resume,
    cls_loss_in,
    flags_in,
    report_other_versions,
    restored_progress,
)
from training.class_rows import class_of_row_in
from training.optimization.optimizer_state import SCHEDULE_FLAGS, restore_optimizer
from training.progress import Progress
from training.run_files import RunFolder
from util.distributed.agreement import fingerprint
from util.distributed.gathering import broadcast_object
from util.distributed.processes import all_gather, get_world_size
from util.errors import UserError
from util.files.checkpoint_file import load_checkpoint
from util.optimizer import CappedCosineLR, CosineToRatioLR


class LoadedCheckpoint(NamedTuple):
    """Path and content of a checkpoint.

    Attributes:
        path: path or URL of the file.
        content: entries by key, see `training.checkpoint.KEYS`.
    """

    path: str
    content: dict[str, Any]

    @classmethod
    def read(cls, path: str) -> "LoadedCheckpoint":
        """Read a file or URL to the CPU, without executing code from it.

        Raises:
            UserError: if it cannot be read.
        """
        return cls(path, load_checkpoint(path))


@dataclass(frozen=True)
class Start:
    """The checkpoints that a run starts from.

    Attributes:
        resume: checkpoint to continue or evaluate (``--resume``, ``--auto_resume``).
        finetune: checkpoint of ``--finetune``.
        frozen: checkpoint of ``--frozen_weights``; None with ``resume``, which contains these
            weights.
    """

    resume: LoadedCheckpoint | None = None
    finetune: LoadedCheckpoint | None = None
    frozen: LoadedCheckpoint | None = None

    @property
    def head(self) -> LoadedCheckpoint | None:
        """The checkpoint that provides the classification head; None: a new head."""
        return self.resume or self.frozen

    @property
    def initial(self) -> LoadedCheckpoint | None:
        """The checkpoint of ``--finetune`` or ``--frozen_weights``; None if neither is loaded."""
        return self.finetune or self.frozen


# ---- which checkpoints


def find_start(
    folder: RunFolder, auto_resume: bool, resume: str, finetune: str, frozen_weights: str | None
) -> Start:
    """Read the checkpoints given by the flags. Collective: call on every rank.

    Args:
        folder: output folder; with ``auto_resume`` its newest checkpoint takes precedence over
            ``resume``.
        resume, finetune, frozen_weights: paths or URLs; empty or None: not given.

    Raises:
        UserError: if a file cannot be read, or ranks find different checkpoints.
    """
    error: UserError | None = None
    start = Start()
    try:
        newest = folder.load_newest() if auto_resume else None
        if newest is not None:
            start = Start(resume=LoadedCheckpoint(str(newest[0]), newest[1]))
            print(f"Continuing from {newest[0]}")
        elif resume:
            start = Start(resume=LoadedCheckpoint.read(resume))
        else:
            start = Start(
                finetune=LoadedCheckpoint.read(finetune) if finetune else None,
                frozen=LoadedCheckpoint.read(frozen_weights) if frozen_weights else None,
            )
    except UserError as err:
        error = err
    _require_same_on_all_ranks(_description(start.resume, error))
    if error is not None:
        raise error
    return start


def _description(checkpoint: LoadedCheckpoint | None, error: UserError | None) -> str:
    """Text to compare between ranks: epoch, step and hash of the checkpoint, or the error."""
    if error is not None:
        return error.one_line()
    if checkpoint is None:
        return "none"
    epoch, step = checkpoint.content.get("epoch"), checkpoint.content.get("step")
    where = f"epoch {epoch}, step {step}"
    # Also compare contents: different optimizer states would make the ranks diverge.
    one_rank = get_world_size() == 1
    return where if one_rank else f"{where} (hash {fingerprint(checkpoint.content)})"


def _require_same_on_all_ranks(description: str) -> None:
    descriptions = all_gather(description)
    for rank, other in enumerate(descriptions):
        if other != descriptions[0]:
            raise UserError(
                "--output_dir, --auto_resume, --resume: ranks found different checkpoints "
                f"(rank 0: {descriptions[0]}; rank {rank}: {other}); "
                "all machines must share the output folder"
            )


# ---- weights


def load_weights(
    model: nn.Module,
    start: Start,
    backbone: str,
    backbone_weights: str,
    class_of_row: Mapping[int, str],
) -> None:
    """Load the weights of ``--resume``, else of ``--finetune`` and ``--frozen_weights``.

    Args:
        model: model with initial weights; changed in place.
        backbone_weights: weights of the backbone if the ``--finetune`` file does not match it.
        class_of_row: class names by row of the model's classification head.

    Raises:
        UserError: if weights do not match the model.
    """
    if start.finetune is not None:
        _finetune(model, start.finetune, backbone, backbone_weights, class_of_row)
    if start.frozen is not None:
        assert isinstance(model, DETRsegm)  # check_flags: --frozen_weights needs --masks
        path, content = start.frozen
        load_frozen_weights(model, model.detr, model_state(content, path), path)
    if start.resume is not None:
        path, content = start.resume
        load_model_state(model, model_state(content, path), path)


def _finetune(
    model: nn.Module,
    checkpoint: LoadedCheckpoint,
    backbone: str,
    backbone_weights: str,
    class_of_row: Mapping[int, str],
) -> None:
    """Load matching weights; if the backbone differs, load it from ``--backbone_weights``."""
    path, content = checkpoint
    state = without_ddp_prefix(model_state(content, path))
    has_backbone = has_backbone_of(model, state)
    if not has_backbone:
        state = {key: value for key, value in state.items() if BODY not in key}
        print(
            f"{path} has a different backbone than --backbone {backbone}; the backbone is "
            f"initialized from --backbone_weights {backbone_weights}"
        )
    classes = HeadClasses(class_of_row, class_of_row_in(content, path))
    cls_loss = cls_loss_in(content, path)
    report = finetune_model(model, state, classes, cls_loss)
    print(report)
    if report.converted and not flags_in(content, path):
        print(f"{path} does not store its classification loss: --cls_loss {cls_loss} is assumed")
    if not has_backbone:
        detector: Any = model.detr if isinstance(model, DETRsegm) else model
        resnet: Any = detector.get_submodule(BODY.removesuffix("."))
        load_resnet_weights(resnet, backbone, backbone_weights)


# ---- optimizer, schedule and progress


def resume_training(
    state: TrainingState,
    checkpoint: LoadedCheckpoint,
    flags: Mapping[str, Any],
    folder: RunFolder,
) -> None:
    """Restore optimizer, schedule, scaler and progress. Collective: call on every rank.

    If the checkpoint contains only weights, a new run starts from them.

    Args:
        state: changed in place; the weights must have been loaded before.
        checkpoint: checkpoint of ``--resume``.
        flags: all flags by name; they determine learning rates and schedule.
        folder: output folder; its log may contain scores that are not in the checkpoint.

    Raises:
        UserError: if the checkpoint does not match the parameters or contains invalid values.
    """
    path, content = checkpoint
    if not can_resume(content):
        print(f"{path} contains only weights: training starts at epoch {state.progress.epoch}")
        return
    restore_optimizer(state.optimizer, state.lr_scheduler, state.scaler, content, path)
    report_other_versions(content)
    progress = state.progress = restored_progress(content)
    if apply_schedule(state.optimizer, state.lr_scheduler, flags, progress.epoch):
        print("Learning rates, schedule and weight decay were changed by the flags")
    done = f", after {progress.images_done} of its images" if progress.images_done else ""
    print(f"Resuming with epoch {progress.epoch}{done}")
    if broadcast_object(folder.holds(path)):
        progress.take_scores(folder.read_log())
        # All ranks need the same scores: early stopping depends on them.
        progress.scores, progress.ema_scores = broadcast_object(
            (progress.scores, progress.ema_scores)
        )


def set_aside_later_files(folder: RunFolder, checkpoint: str, progress: Progress) -> None:
    """When resuming from a checkpoint, set aside what the folder has of later steps.

    Call it only after flags and data have been checked.

    Args:
        checkpoint: path of the checkpoint, in this or another folder.
    """
    folder.go_back_to(progress.epoch, progress.step)
    if not folder.holds(checkpoint):
        if folder.path is not None and progress.has_score:
            print(
                f"best.pth: the best epoch so far is {progress.best_epoch}, in the folder of "
                f"{checkpoint}; {folder.path} will get a best.pth when an epoch scores better"
            )
        return
    if progress.images_done == 0 and progress.best_epoch == progress.epoch - 1:
        folder.keep_as_best(checkpoint, progress.best_weights)
    elif progress.has_score and not folder.has_best():
        print(
            f"best.pth: epoch {progress.best_epoch} is the best so far, but there is no best.pth "
            f"of it in {folder.path}; one is written once an epoch scores better"
        )


def apply_schedule(
    optimizer: Optimizer, scheduler: LRScheduler, flags: Mapping[str, Any], epochs_done: int
) -> bool:
    """Set learning rates, weight decay and schedule to the values of the flags, if they differ.

    Args:
        optimizer: optimizer with its restored state.
        scheduler: schedule with its restored state.
        flags: flags by name, see `training.flags.saved.resolve_flags`.

    Returns:
        whether anything has changed.
    """
    base_lrs = [flags["lr"], flags["lr_backbone"]]
    weight_decay = flags["weight_decay"]
    changed = False
    for group, base in zip(optimizer.param_groups, base_lrs, strict=True):
        changed |= group["weight_decay"] != weight_decay or group["initial_lr"] != base
        changed |= group["lr"] > base  # saved by a cosine schedule without the cap at lr
        group["weight_decay"], group["initial_lr"] = weight_decay, base
    target = {name: flags[flag] for name, flag in SCHEDULE_FLAGS[type(scheduler)].items()}
    changed |= any(getattr(scheduler, name) != value for name, value in target.items())
    if not changed:
        return False
    vars(scheduler).update(target, base_lrs=base_lrs, last_epoch=epochs_done)
    for group, lr in zip(optimizer.param_groups, _closed_form(scheduler), strict=True):
        group["lr"] = lr
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]
    return True


def _closed_form(scheduler: LRScheduler) -> list[float]:
    """Learning rates of the current epoch, computed from ``base_lrs`` alone."""
    assert isinstance(scheduler, CappedCosineLR | CosineToRatioLR | StepLR)
    return list(map(float, scheduler._get_closed_form_lr()))


def averaged_model(
    training: TrainingState,
    decay: float,
    checkpoint: LoadedCheckpoint | None,
    is_evaluated: bool = False,
) -> AveragedModel | None:
    """Build the EMA weights: a copy of the model, or restored from a checkpoint.

    Args:
        training: training state; its model must have the same weights on all ranks.
        decay: value of ``--ema_decay``; 0: None is returned.
        checkpoint: checkpoint of ``--resume``, or None.
        is_evaluated: with ``--eval``: the checkpoint must have EMA weights.

    Raises:
        UserError: if the EMA weights of the checkpoint do not match the model, or are missing.
    """
    if not decay:
        return None
    averaged = AveragedModel(training.model, decay)
    if checkpoint is not None:
        path, content = checkpoint
        weights = averaged_weights_in(content, path)
        if weights is not None:
            load_model_state(averaged.module, weights, path)
            averaged.num_updates = training.progress.step
        elif is_evaluated:
            raise UserError(
                f"--ema_decay {decay}: {path} has no EMA weights to evaluate; use --ema_decay 0"
            )
    return averaged
