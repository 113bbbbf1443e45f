"""The data of a run: data sets, classes, ground truth, and loaders."""

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from pycocotools.coco import COCO

from datasets import build_dataset, build_ground_truth
from datasets.annotations.run_classes import ClassTable, classes_of_run, table_of_checkpoint
from datasets.loading.bad_samples import ReportingLoader
from datasets.loading.loaders import TrainLoader, build_val_loader
from models.coco_categories import default_num_classes
from training.data_flags import OWN_DATA_PATHS
from training.flags import SAME_ON_ALL_RANKS
from training.resume import LoadedCheckpoint
from util.distributed.agreement import fingerprint, require_same


@dataclass(frozen=True)
class Data:
    """Data sets of a run, and what they determine.

    Attributes:
        train_set: gives (image, target); None with ``--eval``.
        val_set: gives (image, target).
        classes: of both data sets and of the checkpoint.
        ground_truth: annotations of ``val_set`` for scoring boxes and masks.
        num_classes: of the model, without no-object.
    """

    train_set: Any
    val_set: Any
    classes: ClassTable
    ground_truth: COCO
    num_classes: int


def build_data(args: argparse.Namespace, checkpoint: LoadedCheckpoint | None) -> Data:
    """Read the data sets that the flags name, and compare them. Collective: call on every rank.

    Args:
        args: all flags; ``num_classes`` None: read from the data.
        checkpoint: of ``--resume``, if there is one.

    Raises:
        UserError: files cannot be read, or contradict each other, or differ between ranks.
    """
    known = None if checkpoint is None else table_of_checkpoint(*checkpoint).names
    val_set: Any = build_dataset("val", args, known)
    train_set: Any = None if args.eval else build_dataset("train", args, known)
    _require_same_data(args.skip_checks, training=train_set, validation=val_set)
    classes = classes_of_run(
        val_set,
        train_set,
        None if checkpoint is None else checkpoint.content,
        "" if checkpoint is None else checkpoint.path,
        args.skip_checks,
    )
    ground_truth = build_ground_truth(val_set, args)
    used = [dataset for dataset in (val_set, train_set) if dataset is not None]
    largest_id = max(dataset.largest_category_id for dataset in used)
    num_classes = args.num_classes
    if num_classes is None:
        num_classes = _default_num_classes(args, largest_id)
    return Data(train_set, val_set, classes, ground_truth, num_classes)


def _default_num_classes(args: argparse.Namespace, largest_id: int) -> int:
    """Number of classes: at least as released with COCO's layout, else as few as possible."""
    is_own = any(getattr(args, name) for name in OWN_DATA_PATHS)
    return default_num_classes("" if is_own else args.dataset_file, largest_id)


def _require_same_data(skip_checks: bool, **splits: Any) -> None:
    """Refuse data sets whose images or classes differ between ranks. Collective.

    Args:
        skip_checks: value of ``--skip_checks``.
        splits: data set, or None, by name.

    Raises:
        UserError: names the split.
    """
    facts = {}
    for name, data in splits.items():
        if data is not None:
            names = ("ids", "categories", "is_thing")
            content = [getattr(data, name, None) for name in names]
            facts[f"{name} data"] = f"{len(data)} images (hash {fingerprint(content)})"
    require_same(facts, SAME_ON_ALL_RANKS, skip_checks)


def build_loaders(
    args: argparse.Namespace, data: Data, bad_images: list[str]
) -> tuple[TrainLoader | None, ReportingLoader]:
    """Loaders of training data (None with ``--eval``) and validation data.

    Args:
        args: all flags.
        data: the data sets.
        bad_images: messages for images that cannot be read; the loaders add to this very list.

    Raises:
        UserError: the training data has fewer images than one step takes.
    """
    pin_memory = torch.device(args.device).type == "cuda"
    val_loader = build_val_loader(
        data.val_set,
        args.eval_batch_size or args.batch_size,
        args.num_workers,
        pin_memory=pin_memory,
        skip_bad_images=args.skip_bad_images,
        bad_images=bad_images,
    )
    if data.train_set is None:
        return None, val_loader
    train_loader = TrainLoader(
        data.train_set,
        args.batch_size,
        args.num_workers,
        pin_memory=pin_memory,
        seed=args.seed,
        accum_steps=args.accum_steps,
        skip_bad_images=args.skip_bad_images,
        bad_images=bad_images,
    )
    return train_loader, val_loader
