"""Data of a run: datasets, classes, ground truth and data loaders."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
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
from datasets.loading.loaders import TrainLoader, build_val_loader
from datasets.loading.padding import estimated_share
from datasets.loading.samplers import EpochBatchSampler
from datasets.loading.samples import ReportingLoader
from training.checkpoint import flags_in
from training.class_rows import (
    category_ids_in,
    choose_category_ids,
    class_names_in,
    require_rows,
    with_class_names,
)
from training.flags.data_checks import OWN_DATA_PATHS
from training.flags.saved import split_of
from training.resume import Start
from util.category_ids import CategoryIds
from util.distributed.agreement import fingerprint, require_same
from util.errors import UserError
from util.options import option
from util.text import counted


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
        return len(self.category_ids.own)

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
            "data": self.facts(),
        }

    def facts(self) -> dict[str, Any]:
        """Facts about both datasets, see `training.data.facts_of`."""
        return {"training": facts_of(self.train_set), "validation": facts_of(self.val_set)}


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
    split = _earlier_split(args, start)
    is_scored = args.eval or start.resume is None  # else the head is trained again
    known = None if head is None else class_names_in(head.content, head.path, is_scored)
    if start.resume is not None and known is not None:
        saved = flags_in(start.resume.content, start.resume.path)
        listed = class_list(args.classes, saved, known, start.resume.path)
        args = argparse.Namespace(**{**vars(args), "classes": listed})
    val_set: Any = build_dataset("val", args, known, split)
    _check_fraction(args, val_set, start, split)
    train_set: Any = None if args.eval else build_dataset("train", args, known, split)
    _require_same_data(args.skip_checks, training=train_set, validation=val_set)
    warn_of_shared_images(train_set, val_set)
    _warn_of_earlier_training(val_set, start)
    _warn_of_renamed_images(val_set, start, split)
    classes = classes_of_run(
        val_set,
        train_set,
        None if head is None else with_class_names(head.content, head.path, val_set, is_scored),
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
        report_changed_data(start.resume.content.get("data"), data.facts())
    return data


def _earlier_split(args: argparse.Namespace, start: Start) -> ImageSplit:
    """Training and validation images of the checkpoint that the run starts from.

    A new run from the weights of a checkpoint keeps them if it has the same data and no
    ``--split_seed``: images that the weights were trained on must not become validation images.
    """
    if start.resume is not None:
        return ImageSplit.read(start.resume.content.get("split"))
    checkpoint = start.finetune or start.frozen
    if checkpoint is None or args.split_seed is not None:
        return ImageSplit()
    saved = flags_in(checkpoint.content, checkpoint.path)
    paths = [(getattr(args, name), saved.get(name)) for name in OWN_DATA_PATHS]
    is_same = any(now and before and _is_same_path(now, before) for now, before in paths)
    is_unknown = not any(before for _, before in paths)  # `export.weights` stores no paths
    return ImageSplit.read(checkpoint.content.get("split") if is_same or is_unknown else None)


def _check_fraction(
    args: argparse.Namespace, val_set: Any, start: Start, earlier: ImageSplit
) -> None:
    """Refuse a ``--val_fraction`` of a new run that changes nothing: all images are in the split.

    Files of `export.weights` do not store their fraction; for them a warning is printed.

    Args:
        val_set: validation dataset.
        start: checkpoints; for ``--resume``, `training.flags.saved.resolve_flags` checks the flag.
        earlier: the split that the run keeps, see `_earlier_split`.
    """
    checkpoint = start.finetune or start.frozen
    if start.resume is not None or checkpoint is None:
        return
    if args.val_fraction is None or args.val_fraction >= 1:  # 1: evaluate all images
        return
    kept: ImageSplit | None = getattr(val_set, "split", None)
    if earlier == ImageSplit() or kept is None or kept != earlier.of_names(kept.train | kept.val):
        return
    saved = split_of(flags_in(checkpoint.content, checkpoint.path)).get("val_fraction")
    known = "" if saved is None else f" (--val_fraction {saved})"
    problem = (
        f"--val_fraction {args.val_fraction:g}: the {len(earlier.val)} validation images of "
        f"{checkpoint.path} are kept{known}, and the data has no new images; "
        "omit the flag, or choose all validation images anew with --split_seed N"
    )
    if saved is None:
        print(f"Warning: {problem}")
    elif args.val_fraction != saved:
        raise UserError(problem)


def _is_same_path(now: str, before: Any) -> bool:
    return isinstance(before, str) and Path(now).resolve() == Path(before).resolve()


def _warn_of_earlier_training(val_set: Any, start: Start) -> None:
    """Print a warning if held-out images are training images of the weights of a new run."""
    split: ImageSplit | None = getattr(val_set, "split", None)
    checkpoint = start.finetune or start.frozen
    if split is None or checkpoint is None:
        return
    earlier = ImageSplit.read(checkpoint.content.get("split")).of_names(split.val)
    shared = split.val & earlier.train
    if shared:
        print(
            f"Warning: {len(shared)} of {len(split.val)} validation images have names of training "
            f"images of {checkpoint.path}, such as {min(shared)}; if they are the same images, "
            "validation AP will be too high"
        )


def _warn_of_renamed_images(val_set: Any, start: Start, earlier: ImageSplit) -> None:
    """Print a warning if no held-out image of the checkpoint is in the data, only new ones."""
    checkpoint = start.resume or start.finetune or start.frozen
    split: ImageSplit | None = getattr(val_set, "split", None)
    if split is None or checkpoint is None or not earlier.val or not earlier.val <= split.val:
        return
    if not split_of(flags_in(checkpoint.content, checkpoint.path)):  # it does not know its data
        return
    if len(split.val - earlier.val) == len(val_set.ids):
        print(
            f"Warning: none of the {len(earlier.val)} validation images of {checkpoint.path}, such "
            f"as {min(earlier.val)}, is in the data; if its images were renamed or moved, the new "
            "validation images may be training images, and validation AP will be too high"
        )


def class_list(
    classes: str | None, saved: Mapping[str, Any], names: Mapping[int, str], source: str
) -> str | list[str] | None:
    """Use the checkpoint's class names if the file of ``--classes`` no longer exists.

    Args:
        classes: value of ``--classes``.
        saved: flags of the checkpoint; its names are used only if they have the same ``--classes``.
        names: class names of the checkpoint by category id; ids have the order of the list.

    Returns:
        ``classes``, or the names.
    """
    is_saved = classes == saved.get("classes")
    if classes is None or not names or not is_saved or Path(classes).exists():
        return classes
    print(f"--classes {classes} does not exist: using the classes in {source}")
    return [names[i] for i in sorted(names)]


def _require_same_data(skip_checks: bool, **splits: Any) -> None:
    """Check that all ranks have the same images and classes. Collective: call on every rank.

    Args:
        skip_checks: value of ``--skip_checks``.
        splits: dataset, or None, by name of the split.
    """
    facts = {}
    for name, data in splits.items():
        if data is not None:
            names = ("ids", "categories", "is_thing")
            content = [getattr(data, name, None) for name in names]
            facts[f"{name} data"] = f"{len(data)} images (hash {fingerprint(content)})"
    require_same(facts, skip_checks)


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


def facts_of(dataset: Any) -> dict[str, Any] | None:
    """Number of images and objects of a dataset, and a hash; None for other dataset classes.

    Args:
        dataset: training or validation data, or None.
    """
    return dataset.facts() if hasattr(dataset, "facts") else None


def report_changed_data(saved: Any, now: Mapping[str, Any]) -> None:
    """Print which data has changed.

    Args:
        saved: ``data`` of the checkpoint, not validated; None in files of earlier versions.
        now: the same of this run: facts by name of the split, see `facts_of`.
    """
    for split, facts in now.items():
        before = saved.get(split) if isinstance(saved, Mapping) else None
        if facts is None or not isinstance(before, Mapping) or before.get("hash") == facts["hash"]:
            continue
        effect = "; best.pth and --patience compare scores of both" if split == "validation" else ""
        print(
            f"Warning: the {split} data has changed since the checkpoint was written: "
            f"{_difference(before, facts)}{effect}"
        )


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = ("images", "objects")
    if all(before.get(name) == now[name] for name in names):
        return "other image names, boxes or classes"
    return ", ".join(f"{counted(now[name], name)} instead of {before.get(name)}" for name in names)
