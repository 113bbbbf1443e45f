"""Read a split of a dataset in any format, with the reading flags applied."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from datasets.annotations.coco_file import ORIGIN
from datasets.annotations.table_checks import ID_RULE, TableChecks
from datasets.formats.class_list import keep_classes, listed_classes
from datasets.formats.held_out import NO_IMAGES, ImageSplit, hold_out
from datasets.formats.recognize import DataSource
from datasets.formats.tables import Note, Tables
from datasets.formats.voc import VocData
from datasets.formats.yolo import YoloData
from util.errors import UserError
from util.options import option
from util.text import counted

DEFAULT_VAL_FRACTION = 0.1


class ReadOptions(NamedTuple):
    """Values of the flags of the same names.

    Attributes:
        val_fraction: fraction of validation images if the data is not split; None: the default.
        seed: seed for choosing these images: ``--split_seed``, by default ``--seed``.
        classes: file with class names, or the names.
        keep_difficult: also train and evaluate on objects of Pascal VOC that are marked difficult.
        restored: whether values may have been restored from a checkpoint; those that do not apply
            to the data are then ignored.
    """

    val_fraction: float | None = None
    seed: int = 42
    classes: str | Sequence[str] | None = None
    keep_difficult: bool = False
    restored: bool = False


def build_read_options(args: Any) -> ReadOptions:
    """Build from the flags of the same names."""
    seed: int | None = option(args, "split_seed")
    return ReadOptions(
        val_fraction=option(args, "val_fraction"),
        seed=getattr(args, "seed", ReadOptions().seed) if seed is None else seed,
        classes=option(args, "classes"),
        keep_difficult=option(args, "keep_difficult"),
        restored=bool(getattr(args, "resume", "")),
    )


def read_split(
    source: DataSource,
    image_set: str,
    options: ReadOptions,
    known_ids: Mapping[str, int] | None = None,
    earlier: ImageSplit = NO_IMAGES,
) -> Tables:
    """Read training or validation data. Without a split, validation images are held out.

    Args:
        image_set: "train" or "val".
        known_ids: category ids by class name, for formats that have only names.
        earlier: training and validation images of a checkpoint, for data without a split.

    Raises:
        UserError: if files are missing or invalid, or a flag does not apply to the data.
    """
    _check_options(source, image_set, options)
    is_whole = "val" not in source.splits
    tables = source.read("train" if is_whole else image_set, known_ids or {})
    if is_whole:
        tables = _part_of(tables, image_set, options, earlier)
    tables = _with_difficult(tables, image_set, options.keep_difficult)
    if options.classes is None:
        return tables
    names = listed_classes(options.classes)
    data, remarks = keep_classes(tables.data, names, tables.source, image_set)
    return replace(tables, data=data, remarks=[*tables.remarks, *remarks])


def _check_options(source: DataSource, image_set: str, options: ReadOptions) -> None:
    if image_set not in source.splits and "val" in source.splits:
        raise UserError("the data has validation images only; --eval can use them, training cannot")
    if options.restored:
        return
    if options.val_fraction is not None and "val" in source.splits:
        raise UserError(
            f"--val_fraction {options.val_fraction}: the data has validation images; omit the "
            "flag, or give the path of the training data only"
        )
    if options.keep_difficult and source.format != VocData.format:
        raise UserError(
            f"--keep_difficult applies to Pascal VOC, but the data is {source.format}; omit it"
        )


def _part_of(tables: Tables, image_set: str, options: ReadOptions, earlier: ImageSplit) -> Tables:
    """The training or the validation images of data without a split."""
    fraction = options.val_fraction
    fraction = DEFAULT_VAL_FRACTION if fraction is None else fraction
    earlier = earlier if fraction < 1 else NO_IMAGES
    prefix = _name_prefix(tables)
    found = TableChecks(tables.source)
    found.check_table("images", tables.data["images"], [ID_RULE])
    found.raise_if_any()
    earlier = earlier.of_names(f"{prefix}{row.get('file_name')}" for row in tables.data["images"])
    training, validation = hold_out(tables.data, fraction, options.seed, earlier, prefix)
    data = training if image_set == "train" else validation
    if not data["images"]:
        raise UserError(f"--val_fraction {fraction} leaves no training images; use a smaller one")
    train_names, val_names = (
        [f"{prefix}{row.get('file_name')}" for row in part["images"]]
        for part in (training, validation)
    )
    flags = f"--val_fraction {fraction:g}, --split_seed {options.seed}"
    part = f" ({_choice(train_names, val_names, flags, earlier)})"
    if image_set == "train":
        part = " (the other images)"
    other = training if image_set == "val" else validation
    notes, errors = (_notes_of(some, data, other) for some in (tables.notes, tables.errors))
    remarks = tables.remarks if image_set == "val" else []  # the same for both splits
    split = earlier.with_images(train_names, val_names)
    part = tables.part + part
    return replace(
        tables, data=data, notes=notes, remarks=remarks, part=part, split=split, errors=errors
    )


def _name_prefix(tables: Tables) -> str:
    """Beginning of image names.

    The common folder of YOLO images changes when a subfolder is added; their names in the split are
    therefore relative to the YAML file or the folder of the data.
    """
    if tables.format != YoloData.format:
        return ""
    start = tables.source if tables.source.is_dir() else tables.source.parent
    return f"{Path(os.path.relpath(tables.img_folder, start)).as_posix()}/"


def _choice(
    training: Sequence[str], validation: Sequence[str], flags: str, earlier: ImageSplit
) -> str:
    """Number of validation images and how they were chosen."""
    names = [*training, *validation]
    start = f"{len(validation)} of {len(names)} images: "
    num_new = sum(1 for name in names if name not in earlier.train and name not in earlier.val)
    if num_new == len(names):
        return start + flags
    kept = sum(1 for name in validation if name in earlier.val)
    new = f", {len(validation) - kept} of {num_new} new ones by {flags}" if num_new else ""
    return f"{start}{kept} as in the checkpoint{new}"


def _notes_of(
    notes: Sequence[Note], data: Mapping[str, Any], other: Mapping[str, Any]
) -> list[Note]:
    """Notes about a split, without the places in the other split."""
    own, others = ({row.get(ORIGIN) for row in part["images"]} for part in (data, other))
    parts = [
        Note(note.text, [p for p in note.places if p.file in own or p.file not in others])
        for note in notes
    ]
    return [note for note in parts if note.places]


def _with_difficult(tables: Tables, image_set: str, keep: bool) -> Tables:
    """Drop difficult objects from training; in evaluation mark them as crowds, to be ignored."""
    rows = tables.data["annotations"]
    count = sum(1 for row in rows if row.get("difficult") == 1)
    if not count or tables.format != VocData.format:
        return tables
    if keep:
        rows = [{**row, "difficult": 0} for row in rows]
        return replace(tables, data={**tables.data, "annotations": rows})
    if image_set == "train":
        rows = [row for row in rows if row.get("difficult") != 1]
    else:
        rows = [{**row, "iscrowd": 1} if row.get("difficult") == 1 else row for row in rows]
    what = "not used in training" if image_set == "train" else "ignored by COCO AP"
    remark = f"{counted(count, 'objects')} marked difficult {what}; --keep_difficult uses them"
    data = {**tables.data, "annotations": rows}
    return replace(tables, data=data, remarks=[*tables.remarks, remark])
