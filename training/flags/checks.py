"""Validate the flags before anything is loaded."""

import argparse
from pathlib import Path

from datasets.loading.byte_images import Normalization
from training.compilation import check_compiler
from training.flags.arguments import EOS_COEF
from training.flags.data_checks import (
    COCO_PATHS,
    NO_PANOPTIC_THRESHOLD,
    OWN_DATA_PATHS,
    check_data_flags,
)
from training.output_folder import lies_in
from training.tensorboard import require_tensorboard
from util.distributed.agreement import require_same
from util.errors import UserError
from util.files.checkpoint_file import check_replaceable
from util.system.devices import parse_device

_AT_LEAST_ONE = (
    *("batch_size", "eval_batch_size", "epochs", "lr_drop", "max_size", "num_classes"),
    *("dec_layers", "hidden_dim", "nheads", "num_queries", "dim_feedforward"),
    *("keep_last", "patience", "accum_steps", "dist_timeout", "freeze_batch_size", "eval_every"),
)
_NOT_NEGATIVE = (
    *("lr", "lr_backbone", "lr_min", "weight_decay", "clip_max_norm", "dropout", "enc_layers"),
    *("eos_coef", "num_workers", "seed", "start_epoch", "panoptic_threshold", "crop_prob"),
    "flip_prob",
    *("save_every", "max_skipped_steps", "skip_bad_images", "ema_decay", "denoising"),
    *("lr_min_ratio", "warmup_steps", "momentum", "freeze_backbone_epochs"),
    *("focal_alpha", "cls_loss_coef", "overlap_penalty"),
)
# Flags that may differ between ranks, and paths, which may differ between machines.
_PER_RANK = frozenset({"rank", "gpu", "device", "num_workers", "dist_url", "dist_timeout"})
_PATHS = frozenset(
    {
        *(*COCO_PATHS, *OWN_DATA_PATHS, "classes"),
        *("resume", "finetune", "frozen_weights", "backbone_weights"),
        *("output_dir", "dump_detections"),
    }
)


def check_flags(args: argparse.Namespace) -> None:
    """Check single flags, and flags that contradict each other.

    Raises:
        UserError: if a flag is invalid; the message says which values are valid.
    """
    _check_numbers(args)
    _check_speed(args)
    _check_dump_file(args.dump_detections)
    check_data_flags(args, bool(args.resume or args.auto_resume))
    _check_start(args)
    _check_overwrite(args)
    _check_masks(args)
    if args.tensorboard:
        if args.eval:
            raise UserError("--tensorboard logs training epochs: omit it with --eval")
        require_tensorboard()


def _check_numbers(args: argparse.Namespace) -> None:
    for names, least in ((_AT_LEAST_ONE, 1), (_NOT_NEGATIVE, 0)):
        for name in names:
            value = getattr(args, name)
            if value is not None and not value >= least:
                raise UserError(f"--{name} {value}: must be at least {least}")
    if args.seed >= 2**31:
        raise UserError(f"--seed {args.seed}: must be below {2**31}")
    Normalization.of(vars(args), "the command line")
    for name in ("ema_decay", "momentum", "lr_min_ratio"):
        value = getattr(args, name)
        if value is not None and value >= 1:
            raise UserError(f"--{name} {value}: must be below 1")
    for name in ("dropout", "panoptic_threshold", "crop_prob", "flip_prob", "focal_alpha"):
        value = getattr(args, name)
        if value is not None and value > 1:
            raise UserError(f"--{name} {value}: must be at most 1 (0.3 means 30 %)")
    if args.hidden_dim % args.nheads or args.hidden_dim % 4:
        raise UserError(
            f"--hidden_dim {args.hidden_dim}: must be a multiple of 4 and of --nheads {args.nheads}"
        )


def _check_speed(args: argparse.Namespace) -> None:
    """Check the flags for speed and memory, which depend on the device."""
    device = parse_device(args.device)
    if args.tf32 and device.type != "cuda":
        raise UserError(f"--tf32 is for NVIDIA GPUs: omit it with --device {args.device}")
    for name in ("compile", "activation_checkpointing"):
        if getattr(args, name) and args.eval:
            raise UserError(f"--{name} changes only training: omit it with --eval")
    if args.activation_checkpointing and args.compile:
        raise UserError("--activation_checkpointing cannot be compiled: omit it or --compile")
    if args.activation_checkpointing and args.backbone_norm == "batch":
        raise UserError(
            "--activation_checkpointing needs --backbone_norm frozen: recomputing would update the "
            "running statistics twice per step"
        )
    if args.compile:
        check_compiler(device)


def _check_dump_file(path: str) -> None:
    if path and not Path(path).absolute().parent.is_dir():
        raise UserError(f"--dump_detections {path}: its folder does not exist")
    if path:
        check_replaceable(path, f"--dump_detections {path}")


def _check_start(args: argparse.Namespace) -> None:
    if args.resume and args.finetune:
        raise UserError(
            "--resume continues a run and --finetune starts a new one: give only one of them"
        )
    if args.auto_resume and not args.output_dir:
        raise UserError("--auto_resume needs --output_dir: the folder of the run to continue")


def _check_overwrite(args: argparse.Namespace) -> None:
    if not args.overwrite:
        return
    if args.eval:
        raise UserError(
            "--overwrite cannot be used with --eval: evaluation does not overwrite training results"
        )
    if not args.output_dir:
        raise UserError("--overwrite needs --output_dir: the folder to start over in")
    if args.auto_resume or (args.resume and lies_in(args.resume, Path(args.output_dir))):
        raise UserError(
            f"--overwrite (start a new run in {args.output_dir}) contradicts --auto_resume and "
            "--resume from this folder (continue the run): give only one of them"
        )


def _check_masks(args: argparse.Namespace) -> None:
    if args.masks and args.hidden_dim < 16:
        raise UserError(f"--hidden_dim {args.hidden_dim}: --masks needs at least 16")
    if args.panoptic_threshold not in NO_PANOPTIC_THRESHOLD and not args.masks:
        raise UserError("--panoptic_threshold requires --masks")
    if args.frozen_weights and not args.masks:
        raise UserError("--frozen_weights trains only the mask head: it requires --masks")


def check_training_flags(args: argparse.Namespace) -> None:
    """Check training flags that only apply together with other flags.

    Call this after flags have been restored from the checkpoint. ``resume`` must then be the path
    of the resumed checkpoint, with ``auto_resume`` too.

    Raises:
        UserError: if a flag has no effect; the message says which flags to change.
    """
    if not args.resume:
        check_data_flags(args, is_resumed=False)
    if args.momentum is not None and args.optimizer != "sgd":
        raise UserError(
            f"--momentum {args.momentum}: --optimizer {args.optimizer} has no momentum; omit the "
            "flag, or use --optimizer sgd"
        )
    for name in ("lr_min", "lr_min_ratio"):
        # Before it was checked, checkpoints could have --lr_min with any schedule.
        is_old = name == "lr_min" and args.resume
        if (value := getattr(args, name)) and args.lr_scheduler != "cosine" and not is_old:
            raise UserError(
                f"--{name} {value}: requires --lr_scheduler cosine; add it, or use --{name} 0"
            )
    if args.lr_min_ratio and args.lr_min:
        raise UserError(
            f"--lr_min {args.lr_min} and --lr_min_ratio {args.lr_min_ratio} both set the final "
            "learning rate: set one of them to 0"
        )
    _check_freezing(args)
    _check_design(args)
    if args.group_aspect and args.batch_size == 1 and args.freeze_batch_size in (None, 1):
        raise UserError(
            "--group_aspect: a batch of one image has no padding; omit it, or raise --batch_size"
        )


def _check_design(args: argparse.Namespace) -> None:
    """Check flags that belong to ``--query_design anchor`` or to ``--cls_loss focal``."""
    if args.denoising and args.query_design != "anchor":
        raise UserError(
            f"--denoising {args.denoising}: requires --query_design anchor; add it, or use "
            "--denoising 0"
        )
    if args.query_design == "anchor" and args.position_embedding != "sine":
        raise UserError(
            f"--position_embedding {args.position_embedding}: --query_design anchor needs sine "
            "encodings; use --position_embedding sine"
        )
    is_anchor_focal = args.query_design == "anchor" and args.cls_loss == "focal"
    if args.overlap_penalty and not is_anchor_focal:
        raise UserError(
            f"--overlap_penalty {args.overlap_penalty}: requires --query_design anchor and "
            "--cls_loss focal; add them, or use --overlap_penalty 0"
        )
    if args.focal_alpha is not None and args.cls_loss != "focal":
        raise UserError(f"--focal_alpha {args.focal_alpha}: requires --cls_loss focal")
    if args.iou_targets and args.cls_loss != "focal":
        raise UserError("--iou_targets requires --cls_loss focal; add it, or use --no_iou_targets")
    if args.cls_loss == "focal" and args.eos_coef != EOS_COEF:
        raise UserError(
            f"--eos_coef {args.eos_coef} is not used with --cls_loss focal; omit the flag"
        )


def _check_freezing(args: argparse.Namespace) -> None:
    epochs, size = args.freeze_backbone_epochs, args.freeze_batch_size
    if size is not None and not epochs:
        raise UserError(
            f"--freeze_batch_size {size}: requires --freeze_backbone_epochs, the number of epochs "
            "with this batch size"
        )
    never_trained = "--frozen_weights" if args.frozen_weights else "--lr_backbone 0"
    if epochs and (args.frozen_weights or not args.lr_backbone):
        raise UserError(
            f"--freeze_backbone_epochs {epochs}: with {never_trained} the backbone is frozen in "
            "all epochs; use --freeze_backbone_epochs 0"
        )


def require_same_flags(args: argparse.Namespace) -> None:
    """Check that all ranks have the same flags. Collective: call on every rank.

    Paths may differ, but each must be given on all ranks or on none.

    Raises:
        UserError: if a flag differs; the message lists its values.
    """
    values = {
        f"--{name}": ("given" if value else "not given") if name in _PATHS else value
        for name, value in sorted(vars(args).items())
        if name not in _PER_RANK
    }
    require_same(values, args.skip_checks)
