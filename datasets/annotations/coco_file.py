"""COCO annotation files: how they are read, and what their fields mean.

All sizes are in pixels.

- images: ``id`` integer of 64 bits, unique; ``file_name`` an existing file, relative to the image
  folder; ``width`` and ``height`` positive integers within the limits of `util.files.image_files`,
  required only with masks.
- annotations: ``id`` integer, unique; ``image_id`` and ``category_id`` of an image and a category
  of the file; ``bbox`` four numbers x, y, width, height of at most `LARGEST_COORDINATE`. Missing or
  null may be ``area`` (then that of the box), ``iscrowd`` (then 0), ``keypoints`` (x, y, visibility
  each), and without masks ``segmentation``.
- categories: ``id`` integer from 0, unique; ``name`` may be missing.

`datasets.annotations.checks` holds a file to this,
`datasets.annotations.segmentations` a segmentation.
"""

import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, TypeGuard

from datasets.annotations.json_files import read_json
from datasets.annotations.wording import in_short
from util.errors import UserError

Row = dict[str, Any]

LARGEST_COORDINATE = 10**9  # pixels; no picture is a thousandth as large

_NUMBER_TYPES = {int, float}


def load_annotations(
    ann_file: str | Path,
    way_out: str = "check --coco_path, or name the file with --train_ann or --val_ann",
) -> dict[str, Any]:
    """Read an annotation file.

    Args:
        ann_file: COCO JSON, of instances or panoptic.
        way_out: what the user can do where it cannot be read.

    Returns:
        The file's object, whose ``images``, ``annotations`` and ``categories`` are lists of
        objects. A file without ``annotations`` (of pictures to predict on) gets an empty list.

    Raises:
        UserError: the file cannot be read, is not JSON, or is not laid out like that.
    """
    data = read_json(ann_file, "annotation file", way_out)
    if type(data) is not dict:
        raise UserError(f"annotation file {ann_file} {_describe_foreign(data)}; {way_out}")
    data.setdefault("annotations", [])
    for table in ("images", "annotations", "categories"):
        if not are_objects(data.get(table)):
            raise UserError(
                f"annotation file {ann_file} is not in COCO format: "
                f'"{table}" must be a list of objects{_describe_keys(data, table)}; {way_out}'
            )
    return data


def _describe_foreign(data: Any) -> str:
    """What a file is whose top level is not an object."""
    if are_objects(data) and data and {"image_id", "bbox", "score"} <= data[0].keys():
        return "holds detections (COCO results), not annotations"
    kind = "a list" if type(data) is list else "a single value"
    tables = '"images", "annotations" and "categories"'
    return f"is not in COCO format: it is {kind}, and must be an object with {tables}"


def _describe_keys(data: Row, table: str) -> str:
    """The keys of a file that lacks a table."""
    if table in data:
        return ""
    keys = [key for key in data if key != "annotations" or data[key] != []]
    return f", the file has only {in_short(keys)}" if keys else ", the file is an empty object"


def are_objects(value: Any) -> TypeGuard[list[Row]]:
    """Whether a value is a list of JSON objects."""
    return type(value) is list and all(type(one) is dict for one in value)


def is_integer(value: Any) -> bool:
    return type(value) is int  # a bool is an int to isinstance


def is_number(value: Any) -> bool:
    return are_numbers([value])


def are_numbers(values: Any) -> bool:
    if type(values) is not list or not set(map(type, values)) <= _NUMBER_TYPES:
        return False
    try:
        return all(map(math.isfinite, values))
    except OverflowError:  # an integer beyond the range of floats
        return False


def are_coordinates(values: Any) -> bool:
    """Whether a value is a list of numbers, none beyond `LARGEST_COORDINATE`."""
    return (
        are_numbers(values)
        and max(values, default=0) <= LARGEST_COORDINATE
        and min(values, default=0) >= -LARGEST_COORDINATE
    )


def category_names(categories: Iterable[Row]) -> dict[int, str]:
    """Class name of each category id; the id itself where a category has no name.

    Lone UTF-16 surrogates, which are valid in JSON but cannot be printed, are escaped.

    Args:
        categories: rows of the table "categories", each with a valid id.
    """
    return {
        row["id"]: str(row.get("name", row["id"])).encode("utf-8", "backslashreplace").decode()
        for row in categories
    }


def largest_category_id(category_ids: Collection[int]) -> int:
    """The largest category id; 0 where there are no categories."""
    return max(category_ids, default=0)


def box_area(annotation: Row) -> float:
    """The area of an annotation in square pixels, as given or else that of its box."""
    area = annotation.get("area")
    if area is not None:
        return float(area)
    _, _, width, height = annotation["bbox"]
    return float(max(width, 0) * max(height, 0))


def fill_optional_fields(annotations: list[Row]) -> None:
    """Add, in place, the ``area`` and ``iscrowd`` that COCO's evaluation needs to find."""
    for annotation in annotations:
        if annotation.get("area") is None:
            annotation["area"] = box_area(annotation)
        if annotation.get("iscrowd") is None:
            annotation["iscrowd"] = 0
