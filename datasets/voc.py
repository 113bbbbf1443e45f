"""Pascal VOC data, ``--dataset_file voc``."""

from collections.abc import Mapping
from typing import Any

from datasets.coco import CocoDetection, build_from_tables
from datasets.formats.held_out import NO_IMAGES, ImageSplit
from datasets.formats.reading import build_read_options, read_split
from datasets.formats.recognise import recognise_as
from util.errors import UserError
from util.options import option


def build(
    image_set: str,
    args: Any,
    known_ids: Mapping[str, int] | None = None,
    earlier: ImageSplit = NO_IMAGES,
) -> CocoDetection:
    """Build the dataset of a split.

    Args:
        image_set: "train" or "val".
        args: ``voc_path``, and as `datasets.coco.build` without the paths; optional:
            ``val_fraction``, ``seed``, ``classes``, ``keep_difficult``.
        known_ids: category id of each known class name; further classes are numbered after them,
            in alphabetical order.
        earlier: images whose part is known from a checkpoint, for data that is not split.

    Raises:
        UserError: a path is missing, or the data is invalid.
    """
    path = option(args, "voc_path")
    if not path:
        raise UserError("--dataset_file voc needs --voc_path: the folder of the data")
    tables = read_split(
        recognise_as("voc", path), image_set, build_read_options(args), known_ids, earlier
    )
    return build_from_tables(tables, image_set, args)
