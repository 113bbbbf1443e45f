"""COCO annotation files: how they are read, and what their fields mean.

All sizes are in pixels.

- images: ``id`` integer, unique; ``file_name`` an existing file, relative to the image folder;
  ``width`` and ``height`` positive integers, required only with masks.
- annotations: ``id`` integer, unique; ``image_id`` and ``category_id`` of an image and a category
  of the file; ``bbox`` four finite numbers x, y, width, height. Missing or null may be ``area``
  (then that of the box), ``iscrowd`` (then 0), ``keypoints`` (x, y, visibility each), and without
  masks ``segmentation``.
- categories: ``id`` integer from 0, unique; ``name`` may be missing.

`datasets.annotation_checks` holds a file to this.
"""

import json
import math
from pathlib import Path
from typing import Any, TypeGuard

from util.errors import UserError

Row = dict[str, Any]

_NUMBER_TYPES = {int, float}


def load_annotations(
    ann_file: str | Path,
    way_out: str = "check --coco_path, or name the file with --train_ann or --val_ann",
) -> dict[str, Any]:
    """Read an annotation file.

    Args:
        ann_file: COCO JSON, of instances or panoptic.
        way_out: what the user can do where there is no such file.

    Returns:
        The file's object, whose ``images``, ``annotations`` and ``categories`` are lists of
        objects. A file without ``annotations`` (of pictures to predict on) gets an empty list.

    Raises:
        UserError: the file cannot be read, is not JSON, or is not laid out like that.
    """
    try:
        with open(ann_file, encoding="utf-8-sig") as file:
            data = json.load(file)
    except OSError as error:
        raise UserError(
            f"annotation file {ann_file} cannot be read ({error.strerror}); {way_out}"
        ) from None
    except ValueError as error:
        raise UserError(f"annotation file {ann_file} is not JSON: {error}") from None
    if type(data) is not dict:
        raise UserError(f"annotation file {ann_file} is not in COCO format: no object at the top")
    data.setdefault("annotations", [])
    for table in ("images", "annotations", "categories"):
        rows = data.get(table)
        if type(rows) is not list or any(type(row) is not dict for row in rows):
            raise UserError(
                f"annotation file {ann_file} is not in COCO format: "
                f'"{table}" must be a list of objects'
            )
    return data


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


def is_rle(segmentation: Any) -> TypeGuard[Row]:
    """Whether a segmentation is run-length encoded, plainly or in COCO's compressed text."""
    return (
        isinstance(segmentation, dict)
        and type(segmentation.get("counts")) in (list, str, bytes)
        and are_numbers(segmentation.get("size"))
    )


def usable_polygons(segmentation: Any) -> list[list[float]]:
    """The polygons (x, y, x, y, … in pixels) of a segmentation that have at least three points."""
    if type(segmentation) is not list:
        return []
    return [
        polygon
        for polygon in segmentation
        if are_numbers(polygon) and len(polygon) >= 6 and len(polygon) % 2 == 0
    ]


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
