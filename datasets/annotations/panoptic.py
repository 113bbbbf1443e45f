"""Read and check COCO panoptic annotations: a JSON file, and a PNG of segment ids per image.

Format of the tables:

- images: as in `datasets.annotations.coco_file`, but ``width`` and ``height`` are required.
- annotations: one per image, with ``image_id``, ``file_name`` of the PNG and ``segments_info``, a
  list of segments: ``id``, an integer from 1, unique per image, the segment's color in the PNG
  (see `util.files.panoptic_png`); ``category_id``. Optional: ``iscrowd`` (default: 0) and ``area``
  (default: counted pixels). ``bbox`` is ignored.
- categories: ``id``, a unique non-negative integer; ``isthing``, 0 or 1 (default as in COCO: ids up
  to 90 are things); ``name``, optional.
"""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from datasets.annotations.coco_file import Row, are_objects, is_integer, load_annotations
from datasets.annotations.file_checks import check_files_exist
from datasets.annotations.table_checks import (
    CATEGORY_RULES,
    CROWD_RULE,
    FILE_NAME_RULE,
    ID_RULE,
    IMAGE_ID_RULE,
    LABEL_RULE,
    Rule,
    TableChecks,
    check_not_empty,
    is_flag,
)
from util.errors import UserError
from util.files.image_files import MAX_PIXELS
from util.files.panoptic_png import LARGEST_THING_ID, MAX_ID, VOID_ID, decode_id_map
from util.text import first_of

MAPS = "segment maps"  # name of the rows of "annotations" in messages


def _is_segment_id(value: Any) -> bool:
    return type(value) is int and VOID_ID < value <= MAX_ID


def _is_area(value: Any) -> bool:
    return is_integer(value) and 0 <= value <= MAX_PIXELS


_MAP_RULES = [
    IMAGE_ID_RULE,
    FILE_NAME_RULE,
    Rule("segments_info", are_objects, "a list of objects"),
]
_SEGMENT_RULES = [
    Rule("id", _is_segment_id, f"an integer from 1 to {MAX_ID}"),
    LABEL_RULE,
    CROWD_RULE,
    Rule("area", _is_area, f"an integer from 0 to {MAX_PIXELS}", required=False),
]
PANOPTIC_CATEGORY_RULES = [
    *CATEGORY_RULES,
    Rule("isthing", is_flag, "0 or 1", required=False),
]


def load_panoptic(ann_file: str | Path) -> dict[str, Any]:
    """Read a panoptic annotation file; `check_panoptic` checks its content.

    Raises:
        UserError: as `load_annotations`.
    """
    return load_annotations(ann_file, fix="check --coco_panoptic_path")


def check_panoptic(
    data: dict[str, Any],
    ann_file: str | Path,
    ann_folder: str | Path,
    img_folder: str | Path | None = None,
    *,
    training: bool = False,
    num_classes: int | None = None,
) -> None:
    """Check a panoptic annotation file without opening an image.

    Args:
        data: content of the file, as returned by `load_panoptic`.
        ann_file: path of the file, for messages.
        ann_folder: folder of the PNGs; it is listed once.
        img_folder: folder of the images; None: image files are not needed.
        training: whether the file is for training and must therefore have segments.
        num_classes: category ids must be below this; None: no limit.

    Raises:
        UserError: all problems in one line, each with the ids of the first few rows.
    """
    images, maps, categories = data["images"], data["annotations"], data["categories"]
    if not os.path.isdir(ann_folder):
        raise UserError(
            f"segment map folder {ann_folder} does not exist; check --coco_panoptic_path"
        )
    check_not_empty(images, ann_file)
    found = TableChecks(ann_file)
    found.check_table("images", images, [ID_RULE, FILE_NAME_RULE])
    found.check_image_sizes(images)
    found.check_table("categories", categories, PANOPTIC_CATEGORY_RULES)
    found.check_fields(MAPS, maps, _MAP_RULES)
    found.check_unique(MAPS, maps, "image_id")
    found.check_references(MAPS, maps, "image_id", images)
    _check_images_have_maps(found, images, maps)
    check_files_exist(found, MAPS, maps, ann_folder)
    if img_folder is not None:
        flag = "--train_images" if training else "--val_images"
        check_files_exist(found, "images", images, img_folder, flag)
    segments = _segments_with_image_ids(maps)
    _check_segments(found, segments, categories, num_classes)
    per_image = Counter(one["image_id"] for one in segments if is_integer(one["image_id"]))
    found.check_mask_memory(images, per_image)
    found.raise_if_any()
    if training and not segments:
        raise UserError(
            f"annotation file {ann_file} has no segments; training needs at least one object"
        )


def _check_images_have_maps(found: TableChecks, images: list[Row], maps: list[Row]) -> None:
    mapped = {row["image_id"] for row in maps if is_integer(row.get("image_id"))}
    bare = [row for row in images if is_integer(row.get("id")) and row["id"] not in mapped]
    found.add("images", bare, 'have no entry in "annotations"')


def _segments_with_image_ids(maps: list[Row]) -> list[Row]:
    """Return all segments, each with its ``image_id`` for messages."""
    return [
        {**segment, "image_id": row.get("image_id")}
        for row in maps
        if are_objects(row.get("segments_info"))
        for segment in row["segments_info"]
    ]


def _check_segments(
    found: TableChecks, segments: list[Row], categories: list[Row], num_classes: int | None
) -> None:
    found.check_fields("segments", segments, _SEGMENT_RULES)
    found.check_references("segments", segments, "category_id", categories)
    if num_classes is not None:
        found.check_labels_below("segments", segments, num_classes, categories)
    seen: set[tuple[Any, Any]] = set()
    repeated = []
    for segment in segments:
        key = (segment["image_id"], segment.get("id"))
        if not (is_integer(key[0]) and is_integer(key[1])):
            continue
        if key in seen:
            repeated.append(segment)
        seen.add(key)
    found.add("segments", repeated, "have the same id as another segment of the image")


def thing_flags(categories: Iterable[Row]) -> dict[int, bool]:
    """For each category id of valid rows, whether it is a thing (not stuff)."""
    return {
        row["id"]: bool(
            row["id"] <= LARGEST_THING_ID if row.get("isthing") is None else row["isthing"]
        )
        for row in categories
    }


def read_id_map(path: str | Path, image_id: int, size_hw: tuple[int, int]) -> np.ndarray:
    """Read the segment ids of an image.

    Args:
        path: a PNG.
        image_id: id of the image, for messages.

    Returns:
        int32 (H, W), 0 outside all segments.

    Raises:
        UserError: the PNG cannot be read or has another size.
    """
    id_map = decode_id_map(path, f"image id {image_id}: segment map {path}")
    if id_map.shape != size_hw:
        raise UserError(
            f"image id {image_id}: segment map {path} is {id_map.shape[0]} x {id_map.shape[1]} "
            f"pixels (height x width), but the image is {size_hw[0]} x {size_hw[1]}; "
            "make their sizes equal"
        )
    return id_map


def check_ids(ids_in_map: set[int], ids_in_json: set[int], where: str) -> None:
    """Check that a segment map and its ``segments_info`` have the same ids, apart from void.

    Args:
        ids_in_json: all ids in ``segments_info``.
        where: image and file, for messages.

    Raises:
        UserError: the ids differ.
    """
    for ids, problem in (
        (ids_in_map - ids_in_json - {VOID_ID}, "has segment ids that segments_info lacks"),
        (ids_in_json - ids_in_map, "lacks segment ids of segments_info"),
    ):
        if ids:
            raise UserError(f"{where} {problem}: {first_of(sorted(ids))}")
