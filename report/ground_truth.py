"""Annotations and images of a run."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pycocotools.coco import COCO

from datasets import build_dataset, build_ground_truth, get_coco_api_from_dataset
from training.flags.data_checks import COCO_PATHS, OWN_DATA_PATHS
from util.errors import UserError
from util.options import fill_in_new_flags


class GroundTruth(NamedTuple):
    """Annotations of a run.

    Attributes:
        val: annotations of the validation images.
        image_folder: folder of the validation images; None: the dataset has no folder.
        train: annotations of the training images; None: not available.
    """

    val: COCO
    image_folder: Path | None
    train: COCO | None

    @classmethod
    def of(cls, val_set: Any, ground_truth: COCO, train_set: Any) -> "GroundTruth":
        """Build from the datasets of a run; ``train_set`` may be None."""
        root = getattr(val_set, "root", None)
        train = None if train_set is None else get_coco_api_from_dataset(train_set)
        return cls(ground_truth, None if root is None else Path(root), train)


def read_ground_truth(flags: Mapping[str, Any], moved: Mapping[str, Any]) -> GroundTruth:
    """Build the datasets from flags. Training data may be missing.

    Args:
        flags: main.py flags by name.
        moved: data flags that replace those in ``flags``; a path replaces all paths.

    Raises:
        UserError: the validation data cannot be read, or the flags name no data set.
    """
    args = argparse.Namespace(**_with_moved_data(flags, moved))
    args.num_classes = None  # number of rows of the class head, which is no limit of the ids
    fill_in_new_flags(args)
    if not hasattr(args, "dataset_file"):
        raise UserError("no checkpoint names the data; give --data or --coco_path")
    val_set = build_dataset("val", args)
    ground_truth = build_ground_truth(val_set, args)
    try:
        train_set: Any = build_dataset("train", args)
    except UserError:
        train_set = None
    return GroundTruth.of(val_set, ground_truth, train_set)


def _with_moved_data(flags: Mapping[str, Any], moved: Mapping[str, Any]) -> dict[str, Any]:
    """Flags with the data paths replaced by those of ``moved``, and a matching ``dataset_file``."""
    if not moved.keys() & {*COCO_PATHS, *OWN_DATA_PATHS}:
        return {**flags, **moved}
    kept = {k: v for k, v in flags.items() if k not in (*COCO_PATHS, *OWN_DATA_PATHS)}
    is_own = moved.keys() & set(OWN_DATA_PATHS) or kept.get("dataset_file") in ("voc", "yolo")
    return {**kept, "dataset_file": "coco" if is_own else kept.get("dataset_file", "coco"), **moved}
