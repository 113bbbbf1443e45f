"""Read COCO annotation files.

Format of the tables (sizes in pixels):

- images: ``id``, a unique 64-bit integer; ``file_name``, an existing file, relative to the image
  folder; ``width`` and ``height``, positive integers within the limits of
  `util.files.image_files`, required only with masks.
- annotations: ``id``, a unique integer; ``image_id`` and ``category_id``, ids in the file;
  ``bbox``, four numbers x, y, width, height of at most `LARGEST_COORDINATE`. Optional (missing or
  null): ``area`` (default: area of the box), ``iscrowd`` (default: 0), ``keypoints`` (x, y,
  visibility each) and, without masks, ``segmentation``.
- categories: ``id``, a unique non-negative integer or a string; ``name``, optional. A string is
  replaced by an integer (`util.category_ids.category_id_of`), and kept as `TEXT_ID`.

`datasets.annotations.checks` checks a file against this format.
"""

import json
import math
import os
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any, TypeGuard

from datasets.annotations.foreign_formats import recognize_binary, recognize_folder, recognize_text
from util.category_ids import category_id_of
from util.errors import UserError
from util.text import shortened

Row = dict[str, Any]

# Key of rows read from a format with one file per image: name of the file, for messages.
ORIGIN = "annotation_file"

LARGEST_COORDINATE = 10**9  # pixels
LARGEST_AREA = LARGEST_COORDINATE**2
TEXT_ID = "text_id"  # field of a category: its original id, if it is a string in the file
# Key of image rows, true if size and boxes refer to the upright image, after the EXIF rotation.
UPRIGHT = "boxes_follow_exif"

_NUMBER_TYPES = {int, float}
_SIDES = ("width", "height")


def load_annotations(
    ann_file: str | Path,
    fix: str = "check --coco_path, or give the file with --train_ann or --val_ann",
) -> dict[str, Any]:
    """Read an annotation file.

    Args:
        ann_file: COCO JSON, instances or panoptic.
        fix: end of the error message: how to fix the problem.

    Returns:
        Content of the file: a dict whose ``images``, ``annotations`` and ``categories`` are lists
        of dicts. ``annotations`` is empty if the file has none (images for inference). Category ids
        that are strings, and image sizes such as 640.0, are replaced by integers.

    Raises:
        UserError: if the file cannot be read, is not JSON, or lacks these tables.
    """
    data = read_json(ann_file, "annotation file", fix)
    if type(data) is not dict:
        raise UserError(f"annotation file {ann_file} {_describe_foreign(data)}; {fix}")
    data.setdefault("annotations", [])
    for table in ("images", "annotations", "categories"):
        if not are_objects(data.get(table)):
            raise UserError(
                f"annotation file {ann_file} is not in COCO format: "
                f'"{table}" must be a list of objects{_describe_keys(data, table)}; {fix}'
            )
    _convert_whole_sizes(data["images"])
    _replace_text_ids(data)
    return data


def has_whole_float(image: Row) -> bool:
    """Whether the width or height of an image is a float such as 640.0."""
    return any(_is_whole_float(image.get(side)) for side in _SIDES)


def _is_whole_float(value: Any) -> TypeGuard[float]:
    return type(value) is float and value.is_integer()


def _convert_whole_sizes(images: Iterable[Row]) -> None:
    """Convert widths and heights such as 640.0 to integers, in place."""
    for image in images:
        for side in _SIDES:
            if _is_whole_float(value := image.get(side)):
                image[side] = int(value)


def _replace_text_ids(data: dict[str, Any]) -> None:
    """Replace string category ids by numbers, in place; ids of no category are kept."""
    for row in data["categories"]:
        if type(row.get("id")) is str:
            row[TEXT_ID], row["id"] = row["id"], category_id_of(row["id"])
    known = {row["id"] for row in data["categories"] if is_integer(row.get("id"))}
    replace_text_ids(data["annotations"], known)


def replace_text_ids(rows: Iterable[Row], known: Container[int] | None = None) -> None:
    """Replace string category ids of annotations or segments by numbers, in place.

    Args:
        rows: annotations, or rows with ``segments_info``.
        known: ids of the categories; other strings are kept. None: all are replaced.
    """
    for row in rows:
        segments = row.get("segments_info")
        for entry in (row,) if segments is None or not are_objects(segments) else segments:
            own_id = entry.get("category_id")
            if type(own_id) is str and (known is None or category_id_of(own_id) in known):
                entry["category_id"] = category_id_of(own_id)


def _describe_foreign(data: Any) -> str:
    """Describe JSON whose top level is not an object."""
    if are_objects(data) and data and {"image_id", "bbox", "score"} <= data[0].keys():
        return "contains detections (COCO results), not annotations"
    kind = "a list" if type(data) is list else "a single value"
    tables = '"images", "annotations" and "categories"'
    return f"is not in COCO format: it is {kind}, but must be an object with {tables}"


def _describe_keys(data: Row, table: str) -> str:
    """List the keys of a file that lacks a table."""
    if table in data:
        return ""
    keys = [key for key in data if key != "annotations" or data[key] != []]
    return f", but the file has only {shortened(keys)}" if keys else ", but the file is empty"


def are_objects(value: Any) -> TypeGuard[list[Row]]:
    """Whether a value is a list of JSON objects."""
    return type(value) is list and all(type(entry) is dict for entry in value)


def is_integer(value: Any) -> bool:
    """Whether a JSON value is an integer; true and false are not."""
    return type(value) is int  # a bool is an int to isinstance


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    return are_numbers([value])


def are_numbers(values: Any) -> bool:
    """Whether a JSON value is a list of finite numbers."""
    if type(values) is not list or not set(map(type, values)) <= _NUMBER_TYPES:
        return False
    try:
        return all(map(math.isfinite, values))
    except OverflowError:  # an integer beyond the range of floats
        return False


def are_coordinates(values: Any) -> bool:
    """Whether a value is a list of numbers of at most `LARGEST_COORDINATE`."""
    return (
        are_numbers(values)
        and max(values, default=0) <= LARGEST_COORDINATE
        and min(values, default=0) >= -LARGEST_COORDINATE
    )


def is_file_name(value: Any) -> bool:
    """Whether a value can be the name of a file."""
    if type(value) is not str or not value or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:  # a lone UTF-16 surrogate
        return False
    return True


def category_names(categories: Iterable[Row]) -> dict[int, str]:
    """Class names by category id; a category without a name gets its id as the name.

    Lone UTF-16 surrogates, which are valid in JSON but cannot be printed, are escaped.

    Args:
        categories: rows of the table "categories", each with a valid id.
    """
    named = ((row["id"], row.get("name", row.get(TEXT_ID, row["id"]))) for row in categories)
    return {
        category_id: str(name).encode("utf-8", "backslashreplace").decode()
        for category_id, name in named
    }


def text_ids(categories: Iterable[Row]) -> dict[int, str]:
    """Original ids by category id, for categories whose id is a string in the file."""
    return {row["id"]: row[TEXT_ID] for row in categories if TEXT_ID in row}


def box_area(annotation: Row) -> float:
    """Area of an annotation in square pixels: its ``area``, or else the area of its box.

    A negative ``area``, as from a polygon in the other direction, counts as missing: COCO's
    evaluation would ignore the object.
    """
    area = annotation.get("area")
    if area is not None and area >= 0:
        return float(area)
    _, _, width, height = annotation["bbox"]
    return float(max(width, 0) * max(height, 0))


def fill_optional_fields(annotations: list[Row]) -> None:
    """Add missing ``area`` and ``iscrowd``, which COCO evaluation requires, in place."""
    for annotation in annotations:
        if annotation.get("area") is None:
            annotation["area"] = box_area(annotation)
        if annotation.get("iscrowd") is None:
            annotation["iscrowd"] = 0


def read_json(path: str | Path, name: str, fix: str) -> Any:
    """Read a JSON file.

    Numbers may be NaN or infinite; of duplicate keys the last one is used.

    Args:
        path: UTF-8 file.
        name: description of the file in messages.
        fix: end of the error message: how to fix the problem.

    Raises:
        UserError: if the file cannot be read or parsed.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except IsADirectoryError:
        reason = _describe_folder(Path(path))
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    except UnicodeDecodeError as error:
        found = recognize_binary(error.object)
        reason = "is not JSON: it "
        reason += f"looks like {found}" if found else "is not UTF-8 text; save it as UTF-8"
    except RecursionError:
        reason = "is nested too deeply to be parsed"
    except json.JSONDecodeError as error:
        reason = _describe_syntax_error(error)
    except ValueError:  # Python's limit on the length of integers
        reason = "contains an integer with thousands of digits"
    raise UserError(f"{name} {path} {reason}; {fix}")


def _describe_folder(folder: Path) -> str:
    """Describe a folder that was given instead of a JSON file."""
    files = sorted(folder.glob("*.json"))
    if files:
        return f"is a folder; give a file in it, such as {files[0]}"
    foreign = recognize_folder(folder)
    return f"is a folder; it looks like {foreign}" if foreign else "is a folder without JSON files"


def _describe_syntax_error(error: json.JSONDecodeError) -> str:
    """Describe a text that is not JSON."""
    if not error.doc.strip():
        return "is empty"
    if (found := recognize_text(error.doc)) is not None:
        return f"is not JSON: it looks like {found}"
    if error.msg.startswith("Unterminated") or error.pos >= len(error.doc.rstrip()):
        return f"is truncated after {len(error.doc)} characters; copy it again"
    return f"is not JSON: {error}"
