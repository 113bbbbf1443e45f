"""Data checks that stop a run before it starts, or print warnings with ``--skip_checks``."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from datasets.annotations.box_formats import (
    LOOKS_LIKE,
    ignored_boxes,
    limits_of,
    suspect_format,
)
from datasets.annotations.coco_file import Row
from datasets.annotations.compact.images import TablesByImage
from datasets.annotations.compact.instances import Instances
from datasets.annotations.compact.panoptic import PanopticSegments
from datasets.annotations.table_checks import first_few
from util.errors import UserError
from util.files.image_files import open_image
from util.text import EXAMPLES_SHOWN, box_in_words, counted, first_of

_OPENED_IMAGES = 200  # images opened for their size if the annotation file does not have it
# This many training images with more objects than queries are an error; fewer are printed only.
_TOO_MANY_IMAGES = 3

logger = logging.getLogger(__name__)


def stop_or_warn(problems: Sequence[str], fix: str, skip_checks: bool) -> None:
    """Raise an error for the problems, or print each as a warning with ``skip_checks``.

    Args:
        problems: one sentence per problem, beginning with the file; may be empty.
        skip_checks: value of ``--skip_checks``.

    Raises:
        UserError: if there are problems and ``skip_checks`` is off.
    """
    if problems and not skip_checks:
        raise UserError(f"{'; '.join(problems)}; {fix}, or start anyway with --skip_checks")
    for problem in problems:
        print(f"Warning (--skip_checks): {problem}")


def warn_of_shared_images(train_set: Any, val_set: Any) -> None:
    """Print a warning if validation images are training images too, by folder and file name.

    Args:
        train_set: training data. Data without the attributes ``root`` (image folder) and
            ``file_names``, or else ``coco`` (tables or their index), is not compared.
        val_set: validation data.
    """
    training, validation = set(_image_paths(train_set)), _image_paths(val_set)
    shared = [path for path in validation if path in training]
    if shared:
        print(
            f"Warning: training also uses {len(shared)} of {len(validation)} validation images, "
            f"such as {shared[0]}; validation AP will be too high"
        )


def _image_paths(dataset: Any) -> list[str]:
    root = getattr(dataset, "root", None)
    if root is None:
        return []
    folder = os.path.realpath(root)
    return [os.path.normpath(f"{folder}/{name}") for name in _file_names(dataset)]


def _file_names(dataset: Any) -> list[str]:
    """Names of the image files; for other dataset classes, those in their tables, if any."""
    if hasattr(dataset, "file_names"):
        return dataset.file_names
    index = getattr(dataset, "coco", None)
    tables = getattr(index, "dataset", index)
    rows = tables.get("images", []) if isinstance(tables, dict) else []
    names = (row.get("file_name") for row in rows)
    return [name for name in names if isinstance(name, str)]


def is_object(row: Row) -> bool:
    """Whether an annotation is an object to train on: not a crowd, and its box has an area."""
    return not row.get("iscrowd") and min(row["bbox"][2:]) > 0


def crowded_images(counts: Counter[int], num_queries: int | None) -> list[tuple[int, int]]:
    """Find images with more objects than queries.

    Args:
        counts: number of objects by image id.
        num_queries: number of queries; None: no limit.

    Returns:
        id and number of objects of these images, largest number first.
    """
    if num_queries is None:
        return []
    return [(image_id, count) for image_id, count in counts.most_common() if count > num_queries]


def are_too_many(crowded: Sequence[tuple[int, int]]) -> bool:
    """Whether the number of images found by `crowded_images` is an error in training data."""
    return len(crowded) >= _TOO_MANY_IMAGES


def warn_about_boxes(instances: Instances, ann_file: str | Path) -> None:
    """Log one warning if training ignores boxes.

    Args:
        ann_file: path of the file, for the message.
    """
    boxes, sizes_wh = instances.bbox, instances.size_wh[instances.image_row]
    empty, outside = ignored_boxes(boxes[:, :2], boxes[:, 2:], limits_of(sizes_wh))
    if (ignored := np.flatnonzero(empty | outside)).size:
        rows = instances.annotations_at(ignored[:EXAMPLES_SHOWN])
        logger.warning(
            "%s: training ignores %s and %s: %s",
            ann_file,
            counted(int(empty.sum()), "boxes of non-positive size"),
            counted(int(outside.sum()), "boxes outside their image"),
            first_few("annotations", rows, "bbox", ignored.size),
        )


def check_boxes_and_counts(
    instances: Instances,
    ann_file: str | Path,
    img_folder: str | Path,
    training: bool,
    num_queries: int | None,
    skip_checks: bool,
) -> None:
    """Check the format of the boxes, and that no image has more objects than the model has queries.

    Args:
        ann_file: path of the file, for messages.
        img_folder: folder of the images; some are opened if the file lacks their sizes.
        training: whether the file is for training. Three or more training images with more objects
            than queries are an error; otherwise such images are only reported.
        num_queries: number of queries; None: no limit.
        skip_checks: print errors as warnings.

    Raises:
        UserError: if there are errors; one line lists all of them.
    """
    problem = _format_problem(instances, ann_file, img_folder)
    problems = [] if problem is None else [problem]
    image_rows = instances.image_row[instances.is_object]
    problems += _count_problems(image_rows, instances, ann_file, training, num_queries)
    stop_or_warn(problems, "fix the file or the flag", skip_checks)


def check_segment_counts(
    panoptic: PanopticSegments,
    ann_file: str | Path,
    *,
    training: bool,
    num_queries: int | None,
    skip_checks: bool,
) -> None:
    """Check that no image of a panoptic file has more segments than the model has queries.

    For arguments and errors see `check_boxes_and_counts`.
    """
    problems = _count_problems(panoptic.segment_images, panoptic, ann_file, training, num_queries)
    stop_or_warn(problems, "fix the file or the flag", skip_checks)


def _format_problem(
    instances: Instances, ann_file: str | Path, img_folder: str | Path
) -> str | None:
    """Describe boxes that do not look like xywh pixels; None if there are none."""
    sizes_wh = _known_sizes(instances, img_folder)
    is_known = np.all(sizes_wh > 0, axis=1)[instances.image_row]
    boxes, limits = instances.bbox[is_known], sizes_wh[instances.image_row[is_known]]
    suspected = suspect_format(boxes[:, :2], boxes[:, 2:], limits_of(limits))
    if suspected is None:
        return None
    chosen = np.flatnonzero(is_known)[suspected.impossible]
    few = chosen[:EXAMPLES_SHOWN]
    rows, image_rows = instances.annotations_at(few), instances.image_row[few]
    examples = [
        f"annotation id {row['id']} of image id {row['image_id']} ({image['file_name']}) "
        f"has bbox {box_in_words(row['bbox'])} in {width} x {height} pixels"
        for row, image, (width, height) in zip(
            rows, instances.images_at(image_rows), sizes_wh[image_rows].tolist(), strict=True
        )
    ]
    problem = f"{len(chosen)} of {len(boxes)} boxes {LOOKS_LIKE[suspected.kind]}"
    return f"{ann_file}: {problem}: {first_of(examples, total=len(chosen))}"


def _known_sizes(instances: Instances, img_folder: str | Path) -> np.ndarray:
    """(M, 2) width and height of images, from the file or (for a sample) from image headers."""
    sizes_wh = instances.size_wh.copy()
    unknown = np.flatnonzero((sizes_wh == 0).any(axis=1))
    sample = unknown[:: max(1, len(unknown) // _OPENED_IMAGES)]
    for row, image_row in zip(sample, instances.images_at(sample), strict=True):
        # Unreadable images are reported when they are read.
        path = os.path.join(img_folder, image_row["file_name"])
        with suppress(UserError), open_image(path, "") as image:
            sizes_wh[row] = image.size
    return sizes_wh


def _count_problems(
    image_rows: np.ndarray,
    images: TablesByImage,
    ann_file: str | Path,
    training: bool,
    num_queries: int | None,
) -> list[str]:
    """Describe images with more objects than queries: returned if an error, else printed.

    Args:
        image_rows: (N,) row of the image of each object.
        images, ann_file, training, num_queries: see `check_boxes_and_counts`.
    """
    found, first, counts = np.unique(image_rows, return_index=True, return_counts=True)
    in_order = np.argsort(first)
    by_row = dict(zip(found[in_order].tolist(), counts[in_order].tolist(), strict=True))
    crowded = crowded_images(Counter(by_row), num_queries)
    if not crowded:
        return []
    few = crowded[:EXAMPLES_SHOWN]
    rows = images.images_at(row for row, _ in few)
    examples = [
        f"image id {row['id']} ({row['file_name']}) has {count}"
        for row, (_, count) in zip(rows, few, strict=True)
    ]
    sentence = (
        f"{ann_file}: some images have more objects than --num_queries {num_queries}, so the model "
        f"cannot find all of them: {first_of(examples, total=len(crowded))}; "
        f"--num_queries {crowded[0][1]} is enough"
    )
    if training and are_too_many(crowded):
        return [sentence]
    print(sentence)
    return []
