"""Check a COCO instance annotation file and its image folder without opening an image.

`check_annotations` raises one error with all problems.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any

from datasets.annotations.coco_file import (
    LARGEST_AREA,
    LARGEST_COORDINATE,
    Row,
    are_coordinates,
    is_integer,
    is_number,
)
from datasets.annotations.file_checks import check_files_exist
from datasets.annotations.segmentations import (
    LONGEST_OUTLINE,
    has_endless_polygon,
    is_rle,
    usable_polygons,
)
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
    sizes_wh_by_id,
)
from util.errors import UserError


def _is_box(value: Any) -> bool:
    return are_coordinates(value) and len(value) == 4


def _is_area(value: Any) -> bool:
    return is_number(value) and abs(value) <= LARGEST_AREA


def are_keypoints(value: Any) -> bool:
    """Whether a value is a list of x, y, visibility triples."""
    return are_coordinates(value) and len(value) % 3 == 0


_FOUR_NUMBERS = f"four finite numbers [x, y, width, height] of at most {LARGEST_COORDINATE:.0e}"
_ANNOTATION_RULES = [
    ID_RULE,
    IMAGE_ID_RULE,
    LABEL_RULE,
    Rule("bbox", _is_box, _FOUR_NUMBERS),
    Rule("area", _is_area, f"a finite number of at most {LARGEST_AREA:.0e}", required=False),
    CROWD_RULE,
    Rule("keypoints", are_keypoints, "a list of x, y, visibility triples", required=False),
]
_NO_SHAPE = "have no usable segmentation (a polygon of three or more points, or an RLE)"
_OVERSIZED = f"have a polygon whose outline or coordinates exceed {LONGEST_OUTLINE} pixels"
_BROKEN_RLE = "have an RLE whose counts do not add up to its size"
_WRONG_SIZE_RLE = "have an RLE whose size is not the [height, width] of the image"
_SEGMENTATION_FAULTS = (_NO_SHAPE, _OVERSIZED, _BROKEN_RLE, _WRONG_SIZE_RLE)


def check_image_folder(img_folder: str | Path, image_set: str) -> None:
    """Check that the image folder of a split exists.

    Args:
        image_set: "train" or "val", for the name of the flag.

    Raises:
        UserError: if the folder does not exist or is a file.
    """
    if os.path.isfile(img_folder):
        raise UserError(
            f"image folder {img_folder} is a file; give the folder of the images with "
            f"--{image_set}_images, and their annotation file with --{image_set}_ann"
        )
    if not os.path.isdir(img_folder):
        raise UserError(
            f"image folder {img_folder} does not exist; "
            f"check --coco_path, or give the folder with --{image_set}_images"
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
    """Check an annotation file against the format described in `datasets.annotations.coco_file`.

    Args:
        data: content of the file, as returned by `load_annotations`.
        ann_file: path of the file, for messages.
        img_folder: folder of the images; it is listed once, as is each subfolder in file names.
        training: whether the file is for training and must therefore have annotations.
        num_classes: category ids must be below this; None: no limit.
        masks: whether ``segmentation`` will be converted to masks.

    Raises:
        UserError: if there are problems; one line lists all of them with the ids of some rows.
    """
    images, annotations, categories = data["images"], data["annotations"], data["categories"]
    check_not_empty(images, ann_file)
    if training and not annotations:
        raise UserError(
            f"annotation file {ann_file} has no annotations; training needs at least one object"
        )
    if training and all(isinstance(row, dict) and row.get("iscrowd") == 1 for row in annotations):
        raise UserError(
            f"annotation file {ann_file} has only crowd annotations (iscrowd 1); training needs at "
            "least one non-crowd object"
        )
    found = TableChecks(ann_file)
    found.check_table("images", images, [ID_RULE, FILE_NAME_RULE])
    found.check_table("categories", categories, CATEGORY_RULES)
    found.check_table("annotations", annotations, _ANNOTATION_RULES)
    flag = "--train_images" if training else "--val_images"
    check_files_exist(found, "images", images, img_folder, flag)
    found.check_references("annotations", annotations, "image_id", images)
    found.check_references("annotations", annotations, "category_id", categories)
    if num_classes is not None:
        found.check_labels_below("annotations", annotations, num_classes, categories)
    if masks:
        found.check_image_sizes(images)
        _check_segmentations(found, annotations, images)
    found.raise_if_any()


def _check_segmentations(found: TableChecks, annotations: list[Row], images: list[Row]) -> None:
    """Each segmentation must be polygons that can be rasterized, or an RLE of the image's size."""
    sizes_wh = sizes_wh_by_id(images)
    faults: dict[str, list[Row]] = {text: [] for text in _SEGMENTATION_FAULTS}
    for row in annotations:
        image_id: Any = row.get("image_id")
        image_wh = sizes_wh.get(image_id) if is_integer(image_id) else None
        if (fault := segmentation_fault(row.get("segmentation"), image_wh)) is not None:
            faults[fault].append(row)
    for text, rows in faults.items():
        found.add("annotations", rows, text)
    objects = Counter(
        row["image_id"]
        for row in annotations
        if is_integer(row.get("image_id")) and not row.get("iscrowd")
    )
    found.check_mask_memory(images, objects)


def segmentation_fault(segmentation: Any, image_wh: tuple[int, int] | None) -> str | None:
    """Describe why a segmentation cannot be converted to a mask, in the plural; None if it can.

    Args:
        segmentation: value of the field.
        image_wh: width and height of the image in pixels, for RLEs; None: unknown.
    """
    if type(segmentation) is dict:
        if not is_rle(segmentation):
            return _BROKEN_RLE
        return None if image_wh and segmentation["size"] == [*image_wh[::-1]] else _WRONG_SIZE_RLE
    usable = usable_polygons(segmentation)
    if usable and len(usable) == len(segmentation):
        return None
    if has_endless_polygon(segmentation):
        return _OVERSIZED
    return None if usable else _NO_SHAPE
