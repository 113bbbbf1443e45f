"""Defaults of the flags that the original codebase does not have.

The parser (``training/flags/arguments.py``) and the ``build*(args)`` functions read this table, so
that a namespace with only the original's flags (an old checkpoint, a notebook, a script) works as
before.
"""

import sys
from typing import Any

PANOPTIC_DATA = ("coco_panoptic", "shapes_panoptic")  # values of --dataset_file with panoptic maps
AMP_CHOICES = ("off", "bf16", "fp16", "auto")  # values of --amp, see `util.system.precision`
AMP_HELP = (
    "mixed precision of the model; auto: bf16 where the processor or GPU has fast bf16, else off; "
    "use fp16 on GPUs only"
)

NEW_FLAG_DEFAULTS: dict[str, Any] = {
    "num_classes": None,
    "query_design": "learned",
    "cls_loss": "ce",
    "cls_loss_coef": 1.0,
    "focal_alpha": None,
    "iou_targets": False,
    "denoising": 0,
    "overlap_penalty": 0.0,
    "finetune": "",
    "data": None,
    "voc_path": None,
    "yolo_path": None,
    "val_fraction": None,
    "split_seed": None,
    "classes": None,
    "keep_difficult": False,
    "backbone_weights": "imagenet",
    "backbone_norm": "frozen",
    "train_images": None,
    "train_ann": None,
    "val_images": None,
    "val_ann": None,
    "scales": None,
    "max_size": 1333,
    "image_mean": [0.485, 0.456, 0.406],  # ImageNet's
    "image_std": [0.229, 0.224, 0.225],
    "crop_prob": 0.5,
    "flip_prob": 0.5,
    "resize": "pillow",
    "group_aspect": False,
    "amp": "off",
    "compile": False,
    "tf32": False,
    "activation_checkpointing": False,
    "lr_scheduler": "step",
    "lr_min": 0.0,
    "lr_min_ratio": 0.0,
    "warmup_steps": 0,
    "lr_scale_batch": False,
    "optimizer": "adamw",
    "momentum": None,
    "freeze_backbone_epochs": 0,
    "freeze_batch_size": None,
    "eval_every": 1,
    "eval_batch_size": None,
    "dump_detections": "",
    "panoptic_threshold": None,
    "save_every": 0,
    "auto_resume": False,
    "overwrite": False,
    "keep_last": 1,
    "patience": None,
    "max_skipped_steps": 0,
    "skip_bad_images": 0,
    "skip_checks": False,
    "accum_steps": 1,
    "ema_decay": 0.0,
    "tensorboard": False,
    "deterministic": False,
    "dist_timeout": 1800,
    "log_style": "auto",
}


def option(args: Any, name: str) -> Any:
    """Value of a flag that the original does not have, or its default if ``args`` lacks it.

    Args:
        args: namespace of flags, usually from argparse.
        name: a key of `NEW_FLAG_DEFAULTS`.

    Raises:
        KeyError: if ``name`` is not such a key.
    """
    return getattr(args, name, NEW_FLAG_DEFAULTS[name])


def fill_in_new_flags(args: Any) -> None:
    """Add all flags of `NEW_FLAG_DEFAULTS` that ``args`` lacks, with their defaults."""
    for name, default in NEW_FLAG_DEFAULTS.items():
        if not hasattr(args, name):
            setattr(args, name, default)


def prints_short(log_style: str) -> bool:
    """Whether a run prints short lines for people instead of the lines of the original.

    Args:
        log_style: ``short``, ``full``, or ``auto``: short if stdout is a terminal.
    """
    return log_style == "short" or (log_style == "auto" and sys.stdout.isatty())
