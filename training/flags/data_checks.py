"""Validate the flags that select the data, before anything is loaded."""

import argparse

from util.errors import UserError
from util.options import PANOPTIC_DATA

COCO_PATHS = (
    *("coco_path", "coco_panoptic_path", "train_images", "train_ann", "val_images", "val_ann"),
)
OWN_DATA_PATHS = ("data", "voc_path", "yolo_path")
# Flags that determine the images and annotations of a run.
DATA_FLAGS = (
    *("dataset_file", *COCO_PATHS, *OWN_DATA_PATHS),
    *("val_fraction", "split_seed", "seed", "classes", "keep_difficult", "masks"),
)
# 0.85 was the default before the flag could be unset: checkpoints and scripts may contain it.
NO_PANOPTIC_THRESHOLD = (None, 0.85)
# Valid values of --dataset_file for each path flag; "coco" is the default.
_READ_BY = {"data": ("coco",), "voc_path": ("coco", "voc"), "yolo_path": ("coco", "yolo")}


def check_data_flags(args: argparse.Namespace, is_resumed: bool) -> None:
    """Check that the paths belong to one dataset, and that the other flags apply to its format.

    Args:
        is_resumed: whether a checkpoint may select the data; call this function again when its
            flags have been restored.

    Raises:
        UserError: if paths or flags conflict; the message contains the flags.
    """
    own = [name for name in OWN_DATA_PATHS if getattr(args, name)]
    coco = [name for name in COCO_PATHS if getattr(args, name)]
    if len(own) + bool(coco) > 1:
        names = " and ".join(f"--{name}" for name in (*own, *coco))
        raise UserError(f"{names} select several datasets: give only one of them")
    if own and args.dataset_file not in _READ_BY[own[0]]:
        raise UserError(
            f"--dataset_file {args.dataset_file} does not read --{own[0]}: omit one of them"
        )
    has_own_data = bool(own) or (not coco and is_resumed)
    _check_val_fraction(args, has_own_data)
    if not is_resumed:
        _check_unused(args, has_own_data)
    if args.keep_difficult and (not has_own_data or args.yolo_path):
        raise UserError("--keep_difficult applies to Pascal VOC: it requires --data or --voc_path")
    if args.classes and args.dataset_file in PANOPTIC_DATA:
        raise UserError(f"--classes does not apply to --dataset_file {args.dataset_file}")


def _check_val_fraction(args: argparse.Namespace, is_own: bool) -> None:
    fraction = args.val_fraction
    if fraction is None:
        return
    if not 0 < fraction <= 1:
        raise UserError(
            f"--val_fraction {fraction}: must be above 0 and at most 1 (0.1 means 10 %)"
        )
    if fraction == 1 and not args.eval:
        raise UserError("--val_fraction 1 leaves no images for training: use it only with --eval")
    if not is_own:
        raise UserError("--val_fraction requires --data, --voc_path or --yolo_path")


def _check_unused(args: argparse.Namespace, is_own: bool) -> None:
    """Refuse flags that the data of a new run ignores.

    Resumed runs may have them: checkpoints of earlier versions contain such flags, and an
    evaluation of other data restores the flags of training.
    """
    if args.split_seed is not None and not is_own:
        raise UserError("--split_seed requires --data, --voc_path or --yolo_path")
    if args.coco_panoptic_path and args.dataset_file != "coco_panoptic":
        raise UserError(
            f"--coco_panoptic_path: --dataset_file {args.dataset_file} does not read it; add "
            "--dataset_file coco_panoptic, or omit the path"
        )
    has_threshold = args.panoptic_threshold not in NO_PANOPTIC_THRESHOLD
    if has_threshold and args.masks and args.dataset_file not in PANOPTIC_DATA:
        raise UserError(
            f"--panoptic_threshold {args.panoptic_threshold}: --dataset_file {args.dataset_file} "
            "has no panoptic maps; add --dataset_file coco_panoptic, or omit the flag"
        )
