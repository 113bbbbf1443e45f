"""Checks of data before a run starts: they stop it, or with ``--skip_checks`` print warnings."""

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

_OPENED_IMAGES = 200  # to learn the sizes of images that the annotation file does not give
# So many training images with more objects than queries are an error; fewer are outliers.
_CROWDED_IMAGES = 3


def stop_or_warn(problems: Sequence[str], way_out: str, skip_checks: bool) -> None:
    """Stop the run because of the problems; with ``skip_checks`` print each as a warning.

    Args:
        problems: one sentence each, with the file; none: nothing happens.
        way_out: what the user can do besides ``--skip_checks``.
        skip_checks: value of the flag.

    Raises:
        UserError: there are problems, and ``skip_checks`` is off.
    """
    if problems and not skip_checks:
        raise UserError(f"{'; '.join(problems)}; {way_out}, or start anyway with --skip_checks")
    for problem in problems:
        print(f"Warning (--skip_checks): {problem}")


def is_object(row: Row) -> bool:
    """Whether an annotation counts as an object: it is no crowd, and its box has an area."""
    return not row.get("iscrowd") and min(row["bbox"][2:]) > 0


def crowded_images(counts: Counter[int], num_queries: int | None) -> list[tuple[int, int]]:
    """Images with more objects than queries: id and number of objects, most objects first."""
    if num_queries is None:
        return []
    return [(image_id, count) for image_id, count in counts.most_common() if count > num_queries]


def are_too_many(crowded: Sequence[tuple[int, int]]) -> bool:
    """Whether images with more objects than queries are an error in training data, not outliers."""
    return len(crowded) >= _CROWDED_IMAGES


def check_boxes_and_counts(
    data: dict[str, Any],
    ann_file: str | Path,
    img_folder: str | Path,
    training: bool,
    num_queries: int | None,
    skip_checks: bool,
) -> None:
    """Check the format of boxes, and that the model has a query for each object of an image.

    Args:
        data: object of an instance annotation file that
            `datasets.annotations.checks.check_annotations` has accepted.
        ann_file: path of the file, for messages.
        img_folder: folder of the images; some are opened where the file does not give their sizes.
        training: whether it is trained on: there, from three images on, more objects than queries
            are an error; otherwise they are reported in one printed line.
        num_queries: largest number of objects that the model finds in an image; None: unlimited.
        skip_checks: print errors as warnings.

    Raises:
        UserError: one line with all errors.
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
    """As `check_boxes_and_counts` for a panoptic file, whose segments are the objects.

    Raises:
        UserError: training images have more segments than there are queries.
    """
    counts = Counter({row["image_id"]: len(row["segments_info"]) for row in data["annotations"]})
    problems = _count_problems(counts, data["images"], ann_file, training, num_queries)
    stop_or_warn(problems, "fix the file or the flag", skip_checks)


def _format_problem(
    data: dict[str, Any], ann_file: str | Path, img_folder: str | Path
) -> str | None:
    """A sentence about boxes that look like another format than COCO's, if they do."""
    sizes_wh = _known_sizes(data["images"], img_folder)
    rows = [row for row in data["annotations"] if row["image_id"] in sizes_wh]
    suspected = suspect_format(*box_arrays(rows, sizes_wh))
    if suspected is None:
        return None
    file_names = {row["id"]: row["file_name"] for row in data["images"]}
    chosen = [row for row, one in zip(rows, suspected.impossible.tolist(), strict=True) if one]
    examples = [
        f"annotation id {row['id']} of image id {row['image_id']} ({file_names[row['image_id']]}) "
        f"has bbox {box_in_words(row['bbox'])}{_size_in_words(sizes_wh.get(row['image_id']))}"
        for row in chosen[:EXAMPLES_SHOWN]
    ]
    found = f"{len(chosen)} of {len(rows)} boxes {LOOKS_LIKE[suspected.kind]}"
    return f"{ann_file}: {found}: {with_rest(examples, len(chosen))}"


def _known_sizes(images: Sequence[Row], img_folder: str | Path) -> dict[int, tuple[int, int]]:
    """Width and height of images by id, from the file; some of those without from their headers."""
    sizes = sizes_wh_by_id(images)
    unknown = [row for row in images if row["id"] not in sizes]
    for row in unknown[:: max(1, len(unknown) // _OPENED_IMAGES)]:
        # What cannot be opened is named when it is read.
        with suppress(UserError), open_image(os.path.join(img_folder, row["file_name"]), "") as one:
            sizes[row["id"]] = one.size
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
    """A sentence about images with more objects than queries, if that is an error.

    Otherwise the sentence is printed: other data than training data, and few images.
    """
    crowded = crowded_images(counts, num_queries)
    if not crowded:
        return []
    file_names = {row["id"]: row["file_name"] for row in images}
    examples = [
        f"image id {image_id} ({file_names[image_id]}) has {count}"
        for image_id, count in crowded[:EXAMPLES_SHOWN]
    ]
    sentence = (
        f"{ann_file}: images with more objects than --num_queries {num_queries}, the model cannot "
        f"find all of them: {with_rest(examples, len(crowded))}; --num_queries {crowded[0][1]} "
        "is enough"
    )
    if training and are_too_many(crowded):
        return [sentence]
    print(sentence)
    return []
