"""Annotations and images of a run."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pycocotools.coco import COCO

from datasets import build_dataset, build_ground_truth, get_coco_api_from_dataset
from datasets.formats.held_out import NO_IMAGES, ImageSplit
from training.checkpoint_data import classes_to_read
from training.flags.arguments import flag_actions
from training.flags.data_checks import COCO_PATHS, DATA_FLAGS, OWN_DATA_PATHS
from util.errors import UserError


class GroundTruth(NamedTuple):
    """Annotations of a run.

    Attributes:
        val: annotations of the validation images.
        image_folder: folder of the validation images; None: the dataset has no folder.
        train: annotations of the training images; None: not available.
        flags: flags that select the data, by name.
    """

    val: COCO
    image_folder: Path | None
    train: COCO | None
    flags: Mapping[str, Any] = {}

    @classmethod
    def of(cls, val_set: Any, ground_truth: COCO, train_set: Any) -> "GroundTruth":
        """Build from the datasets of a run; ``train_set`` may be None."""
        root = getattr(val_set, "root", None)
        train = None if train_set is None else get_coco_api_from_dataset(train_set)
        return cls(ground_truth, None if root is None else Path(root), train)


def read_ground_truth(
    flags: Mapping[str, Any],
    names: Mapping[int, str],
    moved: Mapping[str, Any],
    split: ImageSplit = NO_IMAGES,
) -> GroundTruth:
    """Build the datasets from flags. Training data may be missing.

    Args:
        flags: main.py flags by name; missing flags have their defaults.
        names: class names by category id from the checkpoint; formats that have only names reuse
            these ids.
        moved: data flags that override ``flags``; if it has a path, all saved paths are dropped.
        split: training and validation images of the checkpoint, if images were held out.

    Raises:
        UserError: the validation data cannot be read, or the flags name no dataset.
    """
    found = _with_moved_data(flags, moved)
    if "dataset_file" not in found:
        raise UserError("no checkpoint names the data; give --data or --coco_path")
    defaults = {name: action.default for name, action in flag_actions().items()}
    args = argparse.Namespace(**{**defaults, **found})  # a checkpoint may lack some flags
    # The saved value counts rows of the classification head and does not limit the ids.
    args.num_classes = None
    args.classes = classes_to_read(args.classes, flags, names, "the checkpoint")
    try:
        val_set = build_dataset("val", args, names, split)
        ground_truth = build_ground_truth(val_set, args)
    except UserError as error:
        if not _has_missing_path(args) or moved:
            raise
        raise UserError(f"{error}; if the data has moved, give --data or --coco_path") from error
    try:
        train_set: Any = build_dataset("train", args, names, split)
    except UserError:
        train_set = None
    used = {name: getattr(args, name) for name in DATA_FLAGS}
    return GroundTruth.of(val_set, ground_truth, train_set)._replace(flags=used)


def _has_missing_path(args: argparse.Namespace) -> bool:
    paths = (getattr(args, name) for name in (*COCO_PATHS, *OWN_DATA_PATHS))
    return any(path and not Path(path).exists() for path in paths)


def _with_moved_data(flags: Mapping[str, Any], moved: Mapping[str, Any]) -> dict[str, Any]:
    """Flags with the data paths of ``moved``, and a matching ``dataset_file``."""
    if not moved.keys() & {*COCO_PATHS, *OWN_DATA_PATHS}:
        return {**flags, **moved}
    kept = {k: v for k, v in flags.items() if k not in (*COCO_PATHS, *OWN_DATA_PATHS)}
    is_own = moved.keys() & set(OWN_DATA_PATHS) or kept.get("dataset_file") in ("voc", "yolo")
    return {**kept, "dataset_file": "coco" if is_own else kept.get("dataset_file", "coco"), **moved}
