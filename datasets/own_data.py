"""Datasets of ``--data``, ``--voc_path`` and ``--yolo_path``: user data in any format."""

from collections.abc import Mapping
from typing import Any

from datasets.coco import CocoDetection, build_from_tables
from datasets.formats.held_out import NO_IMAGES, ImageSplit
from datasets.formats.reading import build_read_options, read_split
from datasets.formats.recognize import DataSource, recognize, recognize_as
from util.errors import UserError
from util.options import option


def build(
    image_set: str,
    args: Any,
    known_ids: Mapping[str, int] | None = None,
    earlier: ImageSplit = NO_IMAGES,
) -> CocoDetection:
    """Build the dataset of a split of ``--data``, whose format is detected.

    Args:
        image_set: "train" or "val".
        args: ``data``, and the flags of `datasets.coco.build` without the paths; optional:
            ``val_fraction``, ``split_seed``, ``seed``, ``classes``, ``keep_difficult``.
        known_ids: category ids by class name, for formats that have only names; further classes
            are numbered after them, in alphabetical order.
        earlier: training and validation images of a checkpoint, for data without a split.

    Raises:
        UserError: if the path does not exist, or the format is unknown or the data invalid.
    """
    source = recognize(option(args, "data"))
    return _build_from_source(source, image_set, args, known_ids, earlier)


def build_as(
    kind: str,
    image_set: str,
    args: Any,
    known_ids: Mapping[str, int] | None = None,
    earlier: ImageSplit = NO_IMAGES,
) -> CocoDetection:
    """Build the dataset of a split of ``--voc_path`` or ``--yolo_path``.

    Args:
        kind: "voc" or "yolo".
        image_set, args, known_ids, earlier: as in `build`, with this path instead of ``data``.

    Raises:
        UserError: if the path is not given or does not exist, or the data is invalid.
    """
    path = option(args, f"{kind}_path")
    if not path:
        raise UserError(f"--dataset_file {kind} needs --{kind}_path: the folder of the data")
    return _build_from_source(recognize_as(kind, path), image_set, args, known_ids, earlier)


def _build_from_source(
    source: DataSource,
    image_set: str,
    args: Any,
    known_ids: Mapping[str, int] | None,
    earlier: ImageSplit,
) -> CocoDetection:
    """Build the dataset of a split of recognized data; arguments as in `build`."""
    tables = read_split(source, image_set, build_read_options(args), known_ids, earlier)
    return build_from_tables(tables, image_set, args)
