"""Data in any format that is recognised, ``--data``."""

from collections.abc import Mapping
from typing import Any

from datasets.coco import CocoDetection, build_from_tables
from datasets.formats.reading import build_read_options, read_split
from datasets.formats.recognise import recognise
from util.options import option


def build(image_set: str, args: Any, known_ids: Mapping[str, int] | None = None) -> CocoDetection:
    """Build the dataset of a split.

    Args:
        image_set: "train" or "val".
        args: ``data``, and as `datasets.coco.build` without the paths; optional:
            ``val_fraction``, ``seed``, ``classes``, ``keep_difficult``.
        known_ids: category id of each known class name, for formats with names only; further
            classes are numbered after them, in alphabetical order.

    Raises:
        UserError: the path does not exist, or the data is unknown or invalid.
    """
    source = recognise(option(args, "data"))
    tables = read_split(source, image_set, build_read_options(args), known_ids)
    return build_from_tables(tables, image_set, args)
