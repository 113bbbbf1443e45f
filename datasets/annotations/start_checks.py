"""Data checks that stop a run before it starts, or print warnings with ``--skip_checks``."""

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from datasets.annotations.box_formats import LOOKS_LIKE, box_arrays, suspect_format
from datasets.annotations.coco_file import Row
from datasets.annotations.table_checks import sizes_wh_by_id
from datasets.annotations.wording import EXAMPLES_SHOWN, box_in_words, with_rest
from util.errors import UserError
from util.files.image_files import open_image

_OPENED_IMAGES = 200  # images opened for their size if the annotation file does not have it
# This many training images with more objects than queries are an error; fewer are printed only.
_TOO_MANY_IMAGES = 3


def stop_or_warn(problems: Sequence[str], way_out: str, skip_checks: bool) -> None:
    """Raise an error for the problems, or print each as a warning with ``skip_checks``.

    Args:
        problems: one sentence per problem, beginning with the file; may be empty.
        way_out: how to fix the problems.
        skip_checks: value of ``--skip_checks``.

    Raises:
        UserError: if there are problems and ``skip_checks`` is off.
    """
    if problems and not skip_checks:
        raise UserError(f"{'; '.join(problems)}; {way_out}, or start anyway with --skip_checks")
    for problem in problems:
        print(f"Warning (--skip_checks): {problem}")


def warn_of_shared_images(train_set: Any, val_set: Any) -> None:
    """Print a warning if validation images are training images too, by folder and file name.

    Args:
        train_set: training data. Data without the attributes ``root`` (image folder) and ``coco``
            (tables or their index) is not compared.
        val_set: validation data.
    """
    training, validation = set(_image_paths(train_set)), _image_paths(val_set)
    shared = [path for path in validation if path in training]
    if shared:
        print(
            f"Warning: {len(shared)} of {len(validation)} validation images: also used in "
            f"training, such as {shared[0]}; validation AP will be too high"
        )


def _image_paths(dataset: Any) -> list[str]:
    root, index = (getattr(dataset, name, None) for name in ("root", "coco"))
    tables = getattr(index, "dataset", index)
    rows = tables.get("images", []) if isinstance(tables, dict) else []
    if root is None:
        return []
    folder = os.path.realpath(root)
    names = (row.get("file_name") for row in rows)
    return [os.path.normpath(f"{folder}/{name}") for name in names if isinstance(name, str)]


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
    """Whether so many images, returned by `crowded_images`, are an error in training data."""
    return len(crowded) >= _TOO_MANY_IMAGES


def check_boxes_and_counts(
    data: dict[str, Any],
    ann_file: str | Path,
    img_folder: str | Path,
    training: bool,
    num_queries: int | None,
    skip_checks: bool,
) -> None:
    """Check the format of the boxes, and that no image has more objects than the model has queries.

    Args:
        data: content of an instance annotation file that passed `check_annotations`.
        ann_file: path of the file, for messages.
        img_folder: folder of the images; some are opened if the file lacks their sizes.
        training: whether the file is for training. Three or more training images with more objects
            than queries are an error; otherwise such images are only printed.
        num_queries: number of queries; None: no limit.
        skip_checks: print errors as warnings.

    Raises:
        UserError: if there are errors; one line lists all of them.
    """
    problems = [problem for problem in [_format_problem(data, ann_file, img_folder)] if problem]
    counts = Counter(row["image_id"] for row in data["annotations"] if is_object(row))
    problems += _count_problems(counts, data["images"], ann_file, training, num_queries)
    stop_or_warn(problems, "fix the file or the flag", skip_checks)


def check_segment_counts(
    data: dict[str, Any],
    ann_file: str | Path,
    *,
    training: bool,
    num_queries: int | None,
    skip_checks: bool,
) -> None:
    """Check that no image of a panoptic file has more segments than the model has queries.

    For arguments and errors see `check_boxes_and_counts`.
    """
    counts = Counter({row["image_id"]: len(row["segments_info"]) for row in data["annotations"]})
    problems = _count_problems(counts, data["images"], ann_file, training, num_queries)
    stop_or_warn(problems, "fix the file or the flag", skip_checks)


def _format_problem(
    data: dict[str, Any], ann_file: str | Path, img_folder: str | Path
) -> str | None:
    """Describe boxes that do not look like xywh pixels; None if there are none."""
    sizes_wh = _known_sizes(data["images"], img_folder)
    rows = [row for row in data["annotations"] if row["image_id"] in sizes_wh]
    suspected = suspect_format(*box_arrays(rows, sizes_wh))
    if suspected is None:
        return None
    file_names = {row["id"]: row["file_name"] for row in data["images"]}
    is_bad = suspected.impossible.tolist()
    chosen = [row for row, bad in zip(rows, is_bad, strict=True) if bad]
    examples = [
        f"annotation id {row['id']} of image id {row['image_id']} ({file_names[row['image_id']]}) "
        f"has bbox {box_in_words(row['bbox'])}{_size_in_words(sizes_wh.get(row['image_id']))}"
        for row in chosen[:EXAMPLES_SHOWN]
    ]
    problem = f"{len(chosen)} of {len(rows)} boxes {LOOKS_LIKE[suspected.kind]}"
    return f"{ann_file}: {problem}: {with_rest(examples, len(chosen))}"


def _known_sizes(images: Sequence[Row], img_folder: str | Path) -> dict[int, tuple[int, int]]:
    """Width and height of images by id, from the file or (for a sample) from image headers."""
    sizes = sizes_wh_by_id(images)
    unknown = [row for row in images if row["id"] not in sizes]
    for row in unknown[:: max(1, len(unknown) // _OPENED_IMAGES)]:
        # Unreadable images are reported when they are read.
        path = os.path.join(img_folder, row["file_name"])
        with suppress(UserError), open_image(path, "") as image:
            sizes[row["id"]] = image.size
    return sizes


def _size_in_words(size_wh: tuple[int, int] | None) -> str:
    return "" if size_wh is None else f" in {size_wh[0]} x {size_wh[1]} pixels"


def _count_problems(
    counts: Counter[int],
    images: Sequence[Row],
    ann_file: str | Path,
    training: bool,
    num_queries: int | None,
) -> list[str]:
    """Describe images with more objects than queries: returned if an error, else printed."""
    crowded = crowded_images(counts, num_queries)
    if not crowded:
        return []
    file_names = {row["id"]: row["file_name"] for row in images}
    examples = [
        f"image id {image_id} ({file_names[image_id]}) has {count}"
        for image_id, count in crowded[:EXAMPLES_SHOWN]
    ]
    sentence = (
        f"{ann_file}: some images have more objects than --num_queries {num_queries}, so the model "
        f"cannot find all of them: {with_rest(examples, len(crowded))}; "
        f"--num_queries {crowded[0][1]} is enough"
    )
    if training and are_too_many(crowded):
        return [sentence]
    print(sentence)
    return []
