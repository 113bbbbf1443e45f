"""User data in COCO, Pascal VOC or YOLO format: ``--data``, ``--voc_path``, ``--yolo_path``."""

from collections.abc import Mapping
from typing import Any

from datasets.coco import CocoDetection, build_from_tables
from datasets.formats.held_out import NO_IMAGES, ImageSplit
from datasets.formats.reading import build_read_options, read_split
from datasets.formats.recognize import build_source
from util.errors import UserError


def build(
    image_set: str,
    args: Any,
    known_ids: Mapping[str, int] | None = None,
    earlier: ImageSplit = NO_IMAGES,
) -> CocoDetection:
    """Build the dataset of a split.

    Args:
        image_set: "train" or "val".
        args: ``data`` (the format is detected), ``voc_path`` or ``yolo_path``, and the flags of
            `datasets.coco.build` without the paths; optional: ``val_fraction``, ``split_seed``,
            ``seed``, ``classes``, ``keep_difficult``.
        known_ids: category ids by class name, for formats that have only names; further classes
            are numbered after them, in alphabetical order.
        earlier: training and validation images of a checkpoint, for data without a split.

    Raises:
        UserError: if no path is given or it does not exist, the format is unknown or the data
            invalid.
    """
    source = build_source(args)
    if source is None:
        kind = args.dataset_file
        raise UserError(f"--dataset_file {kind} needs --{kind}_path: the folder of the data")
    tables = read_split(source, image_set, build_read_options(args), known_ids, earlier)
    return build_from_tables(tables, image_set, args)
