"""``--data``: data in any supported format, which is detected."""

from collections.abc import Mapping
from typing import Any

from datasets.coco import CocoDetection, build_from_tables
from datasets.formats.held_out import NO_IMAGES, ImageSplit
from datasets.formats.reading import build_read_options, read_split
from datasets.formats.recognise import recognise
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
        args: ``data``, and the flags of `datasets.coco.build` without the paths; optional:
            ``val_fraction``, ``seed``, ``classes``, ``keep_difficult``.
        known_ids: category ids by class name, for formats that have only names; further classes
            are numbered after them, in alphabetical order.
        earlier: images whose part is known from a checkpoint, for data that is not split.

    Raises:
        UserError: if the path does not exist, or the format is unknown or the data invalid.
    """
    source = recognise(option(args, "data"))
    tables = read_split(source, image_set, build_read_options(args), known_ids, earlier)
    return build_from_tables(tables, image_set, args)
