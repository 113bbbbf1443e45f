"""Checks of a COCO annotation file, before training starts and without opening a picture.

`check_annotations` compares a file with itself and with the image folder and tells everything it
finds in one error; `warn_about_boxes` reports boxes that can be lived with.
"""

import logging
import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.annotations import (
    Row,
    are_numbers,
    is_integer,
    is_number,
    is_rle,
    usable_polygons,
)
from util.errors import UserError

_EXAMPLES_SHOWN = 3
# Boxes often stand over an edge by a rounding error; only what exceeds this speaks for another box
# format.
_EDGE_SLACK_PIXELS = 2.0
_SUSPICIOUS_SHARE = 0.1

logger = logging.getLogger(__name__)


class _Rule(NamedTuple):
    """What one field of a table must be."""

    field: str
    is_valid: Callable[[Any], bool]
    must_be: str
    required: bool = True


_LARGEST_LABEL = 100_000  # a model has a logit for every id up to the largest


def _is_label(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_LABEL


def _is_positive(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_file_name(value: Any) -> bool:
    return type(value) is str and value != ""


def _is_flag(value: Any) -> bool:
    return type(value) in (int, bool) and value in (0, 1)


def _is_box(value: Any) -> bool:
    return are_numbers(value) and len(value) == 4


def _are_keypoints(value: Any) -> bool:
    return are_numbers(value) and len(value) % 3 == 0


_ID = _Rule("id", is_integer, "an integer")
_IMAGE_RULES = [_ID, _Rule("file_name", _is_file_name, "a file name")]
_IMAGE_SIZE_RULES = [
    _Rule("width", _is_positive, "a positive integer"),
    _Rule("height", _is_positive, "a positive integer"),
]
_CATEGORY_RULES = [_Rule("id", _is_label, f"an integer from 0 to {_LARGEST_LABEL}")]
_ANNOTATION_RULES = [
    _ID,
    _Rule("image_id", is_integer, "an integer"),
    _Rule("category_id", _is_label, f"an integer from 0 to {_LARGEST_LABEL}"),
    _Rule("bbox", _is_box, "four finite numbers [x, y, width, height]"),
    _Rule("area", is_number, "a finite number", required=False),
    _Rule("iscrowd", _is_flag, "0 or 1", required=False),
    _Rule("keypoints", _are_keypoints, "a list of x, y, visibility triples", required=False),
]


class _Findings:
    """What is wrong with one annotation file, collected so that one error can tell it all."""

    def __init__(self, ann_file: str | Path) -> None:
        self.ann_file = ann_file
        self.problems: list[str] = []

    def add(self, table: str, rows: list[Row], problem: str, field: str | None = None) -> None:
        """Note a problem of some rows of a table: how many, and the ids of the first few."""
        if rows:
            examples = _first_few(table, rows, field)
            self.problems.append(f"{len(rows)} of the {table} {problem}: {examples}")

    def raise_if_any(self) -> None:
        """Raise the one error that tells everything noted."""
        if self.problems:
            raise UserError(f"{self.ann_file} must be mended: {'; '.join(self.problems)}")


def _first_few(table: str, rows: list[Row], field: str | None) -> str:
    """The first few rows in words, and how many more there are."""
    few = [_describe(table, row, field) for row in rows[:_EXAMPLES_SHOWN]]
    more = len(rows) - len(few)
    return ", ".join(few) + (f" and {more} more" if more else "")


def _describe(table: str, row: Row, field: str | None) -> str:
    """The name by which a user finds a row again, and what stands in the field at fault."""
    if table == "annotations":
        name = f"annotation id {row.get('id')!r} of image id {row.get('image_id')!r}"
    elif table == "images":
        name = f"image id {row.get('id')!r}"
    else:
        name = f"category id {row.get('id')!r}"
    return name if field is None else f"{name} ({field} {row.get(field)!r:.60})"


def check_image_folder(img_folder: str | Path) -> None:
    """Raise a UserError if the folder of the pictures is not there."""
    if not os.path.isdir(img_folder):
        raise UserError(
            f"image folder {img_folder} does not exist; "
            "check --coco_path, or name the folder with --train_images or --val_images"
        )


def check_annotations(
    data: dict[str, Any],
    ann_file: str | Path,
    img_folder: str | Path,
    *,
    training: bool = False,
    num_classes: int | None = None,
    masks: bool = False,
) -> None:
    """Check what `load_annotations` has read; the module says what a file must look like.

    Args:
        data: the file's object.
        ann_file: where it was read, for the message.
        img_folder: folder of the pictures; it and its subfolders that pictures name are listed
            once.
        training: whether it is to be trained on; then it must have annotations.
        num_classes: category ids must be below this; None: any number of classes.
        masks: whether masks will be made from ``segmentation``.

    Raises:
        UserError: one line with everything that is wrong, naming the first few ids of each kind.
    """
    images, annotations, categories = data["images"], data["annotations"], data["categories"]
    if not images:
        raise UserError(f"annotation file {ann_file} has no images; a split needs at least one")
    if training and not annotations:
        raise UserError(
            f"annotation file {ann_file} has no annotations; training needs at least one"
        )
    if training and all(isinstance(one, dict) and one.get("iscrowd") == 1 for one in annotations):
        raise UserError(
            f"annotation file {ann_file} has crowd annotations alone; training needs single objects"
        )
    found = _Findings(ann_file)
    _check_table(found, "images", images, _IMAGE_RULES + _IMAGE_SIZE_RULES * masks)
    _check_table(found, "categories", categories, _CATEGORY_RULES)
    _check_table(found, "annotations", annotations, _ANNOTATION_RULES)
    _check_files_exist(found, images, img_folder)
    _check_references(found, annotations, "image_id", images)
    _check_references(found, annotations, "category_id", categories)
    if num_classes is not None:
        _check_labels_below(found, annotations, num_classes)
    if masks:
        _check_segmentations(found, annotations, images)
    found.raise_if_any()


def _check_table(found: _Findings, table: str, rows: list[Row], rules: list[_Rule]) -> None:
    """Every row must keep every rule, and no two rows may have the same id."""
    for field, is_valid, must_be, required in rules:
        wrong = [row for row in rows if not is_valid(row.get(field))]
        absent = [row for row in wrong if row.get(field) is None]
        present = [row for row in wrong if row.get(field) is not None]
        found.add(table, present, f"have a wrong {field}, which must be {must_be}", field)
        if required:
            found.add(table, absent, f"have no {field}")
    counts = Counter(row["id"] for row in rows if is_integer(row.get("id")))
    if len(counts) < len(rows):
        repeated = [row for row in rows if is_integer(row.get("id")) and counts[row["id"]] > 1]
        found.add(table, repeated, "share their id with another")


def _check_files_exist(found: _Findings, images: list[Row], img_folder: str | Path) -> None:
    """Every picture must be in its folder; folders are listed, files not touched."""
    named = [row for row in images if _is_file_name(row.get("file_name"))]
    listings: dict[str, set[str]] = {}
    missing = []
    for row in named:
        folder, name = os.path.split(row["file_name"])
        if folder not in listings:
            listings[folder] = _listing(os.path.join(img_folder, folder))
        if name not in listings[folder]:
            missing.append(row)
    found.add("images", missing, f"have no file in {img_folder}", "file_name")


def _listing(folder: str) -> set[str]:
    """Names of what is in a folder; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _check_references(
    found: _Findings, annotations: list[Row], field: str, rows: list[Row]
) -> None:
    """What annotations refer to must be in the file. Values of a wrong type are told elsewhere."""
    known = {row["id"] for row in rows if is_integer(row.get("id"))}
    stray = [row for row in annotations if is_integer(row.get(field)) and row[field] not in known]
    table = "images" if field == "image_id" else "categories"
    found.add("annotations", stray, f"have a {field} that is not among the {table}", field)


def _check_labels_below(found: _Findings, annotations: list[Row], num_classes: int) -> None:
    """The label is the category id, so a number of classes must leave room for the largest."""
    beyond = [
        row
        for row in annotations
        if is_integer(row.get("category_id")) and row["category_id"] >= num_classes
    ]
    problem = (
        f"have a category_id that is not below the number of classes (--num_classes {num_classes})"
    )
    found.add("annotations", beyond, problem, "category_id")


def _check_segmentations(found: _Findings, annotations: list[Row], images: list[Row]) -> None:
    """A mask needs a polygon or an RLE of the picture's size."""
    sizes_hw = {
        row["id"]: [row.get("height"), row.get("width")]
        for row in images
        if is_integer(row.get("id"))
    }
    shapeless, misfits = [], []
    for row in annotations:
        segmentation = row.get("segmentation")
        if is_rle(segmentation):
            if segmentation["size"] != sizes_hw.get(row.get("image_id")):
                misfits.append(row)
        elif not usable_polygons(segmentation):
            shapeless.append(row)
    found.add(
        "annotations",
        shapeless,
        "have no segmentation to make a mask of (no polygon of three points, no RLE)",
    )
    found.add(
        "annotations", misfits, "have an RLE whose size is not the [height, width] of the image"
    )


def warn_about_boxes(data: dict[str, Any], ann_file: str | Path) -> None:
    """Log one line about boxes that training leaves out, and one if the boxes look like xyxy.

    Args:
        data: a file's object that `check_annotations` has passed.
        ann_file: where it was read, for the message.
    """
    annotations = data["annotations"]
    if not annotations:
        return
    boxes = np.array([row["bbox"] for row in annotations], dtype=np.float64)
    limits = _image_sizes_wh(annotations, data["images"])
    start, extent = boxes[:, :2], boxes[:, 2:]
    empty = (extent <= 0).any(axis=1)
    outside = ~empty & ((start >= limits) | (start + extent <= 0)).any(axis=1)
    if (left_out := np.flatnonzero(empty | outside)).size:
        rows = [annotations[index] for index in left_out]
        logger.warning(
            "%s: %d boxes of non-positive size and %d wholly outside their image "
            "are left out of training targets: %s",
            ann_file,
            empty.sum(),
            outside.sum(),
            _first_few("annotations", rows, "bbox"),
        )
    if _look_like_xyxy(start, extent, limits):
        logger.warning(
            "%s: many boxes reach beyond their image, yet all would fit as [x1, y1, x2, y2]; "
            "COCO's bbox is [x, y, width, height]",
            ann_file,
        )


def _image_sizes_wh(annotations: list[Row], images: list[Row]) -> np.ndarray:
    """(N, 2) width and height of each annotation's image; infinite where the file does not tell."""
    sizes = {
        row["id"]: (row["width"], row["height"])
        for row in images
        if _is_positive(row.get("width")) and _is_positive(row.get("height"))
    }
    unknown = (math.inf, math.inf)
    return np.array([sizes.get(row["image_id"], unknown) for row in annotations])


def _look_like_xyxy(start: np.ndarray, extent: np.ndarray, limits: np.ndarray) -> bool:
    """Whether boxes, (N, 2) each, make better sense if ``extent`` is read as the other corner."""
    beyond = (start + extent > limits + _EDGE_SLACK_PIXELS).any(axis=1)
    fits = ((extent > start) & (extent <= limits + _EDGE_SLACK_PIXELS)).all(axis=1)
    return bool(beyond.mean() > _SUSPICIOUS_SHARE and fits.all())
