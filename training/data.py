"""Data of a run: datasets, classes, ground truth and data loaders."""

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from pycocotools.coco import COCO

from datasets import build_data_kind, build_dataset, build_ground_truth
from datasets.annotations.class_tables import (
    ClassTable,
    classes_of_run,
    warn_of_mirrored_classes,
    warn_of_similar_classes,
)
from datasets.annotations.start_checks import warn_of_shared_images
from datasets.coco import PUBLISHED_SCALES
from datasets.formats.held_out import ImageSplit
from datasets.loading.listed_images import ListedImages
from datasets.loading.loaders import TrainLoader, build_val_loader
from datasets.loading.padding_share import estimated_share
from datasets.loading.samplers import EpochBatchSampler
from datasets.loading.samples import ReportingLoader
from training.checkpoint import flags_in
from training.checkpoint_data import (
    build_earlier_split,
    check_val_fraction,
    classes_to_read,
    report_changed_data,
    warn_of_trained_validation_images,
)
from training.class_rows import (
    category_ids_in,
    choose_category_ids,
    class_names_in,
    require_rows,
    with_class_names,
)
from training.resume import Start
from util.category_ids import CategoryIds
from util.distributed.agreement import fingerprint, require_same
from util.options import option


@dataclass(frozen=True)
class Data:
    """Datasets of a run, with their classes and ground truth.

    Attributes:
        train_set: training dataset, yields (image, target); None with ``--eval``.
        val_set: validation dataset, yields (image, target).
        classes: classes merged from both datasets and the checkpoint.
        ground_truth: annotations of ``val_set`` for scoring boxes and masks.
        category_ids: category ids of the rows of the classification head.
    """

    train_set: Any
    val_set: Any
    classes: ClassTable
    ground_truth: COCO
    category_ids: CategoryIds

    @property
    def num_classes(self) -> int:
        """Number of classes of the model, without no-object."""
        return len(self.category_ids.user_ids)

    def class_of_row(self) -> dict[int, str]:
        """Class names by row of the classification head; some rows may have no class."""
        rows, names = self.category_ids.row_of, self.classes.names
        return {rows[i]: name for i, name in names.items() if i in rows}

    def checkpoint_entries(self) -> dict[str, Any]:
        """Class entries of a checkpoint, see `training.checkpoint.KEYS`."""
        split: ImageSplit | None = getattr(self.val_set, "split", None)
        return {
            "categories": self.classes.names,
            "is_thing": self.classes.is_thing or None,
            "category_ids": self.category_ids.saved(),
            "split": None if split is None else split.saved(),
            "data": self.summaries(),
        }

    def summaries(self) -> dict[str, Any]:
        """Number of images and objects of each split, and a hash; None for other datasets."""
        splits = {"training": self.train_set, "validation": self.val_set}
        return {
            name: dataset.summary() if isinstance(dataset, ListedImages) else None
            for name, dataset in splits.items()
        }


def build_data(args: argparse.Namespace, start: Start) -> Data:
    """Read the datasets and check that they are consistent. Collective: call on every rank.

    Args:
        args: all flags; if ``num_classes`` is None, it is inferred from the data.
        start: checkpoints; if one provides the classification head, its category ids are used.

    Raises:
        UserError: if files cannot be read, are inconsistent, or differ between ranks.
    """
    head = start.head
    of_head = None if head is None else category_ids_in(head.content, args.num_classes, head.path)
    if of_head is not None:  # classes without a row are reported below
        args = argparse.Namespace(**{**vars(args), "num_classes": None})
    split = build_earlier_split(args, start)
    keeps_classes = args.eval or start.resume is None  # else the head is trained again
    known = None if head is None else class_names_in(head.content, head.path, keeps_classes)
    if start.resume is not None and known is not None:
        saved = flags_in(start.resume.content, start.resume.path)
        listed = classes_to_read(args.classes, saved, known, start.resume.path)
        args = argparse.Namespace(**{**vars(args), "classes": listed})
    val_set: Any = build_dataset("val", args, known, split)
    check_val_fraction(args.val_fraction, val_set, start, split)
    train_set: Any = None if args.eval else build_dataset("train", args, known, split)
    _require_same_data(args.skip_checks, training=train_set, validation=val_set)
    warn_of_shared_images(train_set, val_set)
    warn_of_trained_validation_images(val_set, start, split)
    classes = classes_of_run(
        val_set,
        train_set,
        None if head is None else with_class_names(head.content, head.path, val_set, keeps_classes),
        "" if head is None else head.path,
        args.skip_checks,
    )
    if train_set is not None:
        warn_of_similar_classes(classes.names.values())
        warn_of_mirrored_classes(classes.names.values(), option(args, "flip_prob"))
    ground_truth = build_ground_truth(val_set, args)
    used = [dataset for dataset in (val_set, train_set) if dataset is not None]
    largest_id = max((i for dataset in used for i in dataset.categories), default=0)
    category_ids = of_head or choose_category_ids(
        build_data_kind(args), args.num_classes, classes, largest_id
    )
    if head is not None:
        for dataset in used:
            require_rows(dataset, category_ids, head.path)
    data = Data(train_set, val_set, classes, ground_truth, category_ids)
    if start.resume is not None and train_set is not None:
        report_changed_data(start.resume.content.get("data"), data.summaries())
    return data


def _require_same_data(skip_checks: bool, **splits: Any) -> None:
    """Check that all ranks have the same images and classes. Collective: call on every rank.

    Args:
        skip_checks: value of ``--skip_checks``.
        splits: dataset, or None, by name of the split.
    """
    values = {}
    for name, data in splits.items():
        if data is not None:
            names = ("ids", "categories", "is_thing")
            content = [getattr(data, name, None) for name in names]
            values[f"{name} data"] = f"{len(data)} images (hash {fingerprint(content)})"
    require_same(values, skip_checks)


def build_loaders(
    args: argparse.Namespace, data: Data, bad_images: list[str]
) -> tuple[TrainLoader | None, ReportingLoader]:
    """Data loaders of the training data (None with ``--eval``) and validation data.

    Args:
        bad_images: error messages of unreadable images; the loaders append to this list.

    Raises:
        UserError: if the training data has fewer images than one optimizer step.
    """
    shared: dict[str, Any] = {
        "num_workers": args.num_workers,
        "pin_memory": torch.device(args.device).type == "cuda",
        "skip_bad_images": args.skip_bad_images,
        "bad_images": bad_images,
        "category_ids": data.category_ids,
    }
    val_loader = build_val_loader(data.val_set, args.eval_batch_size or args.batch_size, **shared)
    if data.train_set is None:
        return None, val_loader
    train_loader = TrainLoader(
        data.train_set,
        args.batch_size,
        seed=args.seed,
        accum_steps=args.accum_steps,
        freeze_batch_size=args.freeze_batch_size,
        group_aspect=args.group_aspect,
        **shared,
    )
    if args.group_aspect:
        print(_compare_padding(data.train_set, train_loader, args))
    return train_loader, val_loader


def _compare_padding(train_set: Any, grouped: TrainLoader, args: argparse.Namespace) -> str:
    """Expected share of padded pixels of the first epoch, with and without ``--group_aspect``."""
    random_batches = EpochBatchSampler(len(train_set), args.batch_size, args.seed)
    scales, sizes_wh = args.scales or PUBLISHED_SCALES, train_set.sizes_wh
    with_flag, without = (
        estimated_share(sizes_wh, batches, scales, args.max_size)
        for batches in (grouped.batches, random_batches)
    )
    return (
        f"--group_aspect: about {with_flag:.1%} of the pixels of a batch are padding, instead of "
        f"{without:.1%} in random batches (estimated without crops)"
    )
