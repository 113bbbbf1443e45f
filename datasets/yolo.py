"""YOLO data, ``--dataset_file yolo``."""

from typing import Any

from datasets.coco import CocoDetection, build_from_tables
from datasets.formats.held_out import NO_IMAGES, ImageSplit
from datasets.formats.reading import build_read_options, read_split
from datasets.formats.recognise import recognise_as
from util.errors import UserError
from util.options import option


def build(image_set: str, args: Any, earlier: ImageSplit = NO_IMAGES) -> CocoDetection:
    """Build the dataset of a split.

    Args:
        image_set: "train" or "val".
        args: ``yolo_path``, and as `datasets.coco.build` without the paths; optional:
            ``val_fraction``, ``seed``, ``classes``.
        earlier: images whose part is known from a checkpoint, for data that is not split.

    Raises:
        UserError: a path is missing, or the data is invalid.
    """
    path = option(args, "yolo_path")
    if not path:
        raise UserError("--dataset_file yolo needs --yolo_path: data.yaml, or its folder")
    source = recognise_as("yolo", path)
    tables = read_split(source, image_set, build_read_options(args), earlier=earlier)
    return build_from_tables(tables, image_set, args)
