"""Checks of the tables of annotation files, whatever they annotate.

A file's faults are collected in `FileProblems`, so that one error tells them all.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from datasets.annotations.coco_file import Row, is_integer
from datasets.annotations.missing_files import explain_missing_files
from datasets.annotations.segmentations import MAX_MASK_PIXELS
from datasets.annotations.wording import EXAMPLES_SHOWN, counted, in_short, singular, with_rest
from util.errors import UserError
from util.files.image_files import MAX_PIXELS, MAX_SIDE

LARGEST_LABEL = 100_000  # a model has a logit for every id up to the largest
NO_FILE = "have no file in"  # how the problem of missing files begins
_LARGEST_ID = 2**63 - 1  # of an integer tensor

logger = logging.getLogger(__name__)


class Rule(NamedTuple):
    """What one field of a table must be."""

    field: str
    is_valid: Callable[[Any], bool]
    must_be: str
    required: bool = True


def is_label(value: Any) -> bool:
    """Whether a value can be a category id."""
    return type(value) is int and 0 <= value <= LARGEST_LABEL


def is_id(value: Any) -> bool:
    """Whether a value is an integer that a tensor can hold."""
    return type(value) is int and -_LARGEST_ID <= value <= _LARGEST_ID


def is_side(value: Any) -> TypeGuard[int]:
    """Whether a value can be the width or the height of an image."""
    return type(value) is int and 0 < value <= MAX_SIDE


def is_file_name(value: Any) -> bool:
    """Whether a value can be the name of a file."""
    if type(value) is not str or not value or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:  # half of a UTF-16 pair
        return False
    return True


def is_flag(value: Any) -> bool:
    """Whether a value is 0 or 1."""
    return type(value) in (int, bool) and value in (0, 1)


ID_RULE = Rule("id", is_id, "a 64-bit integer")
IMAGE_ID_RULE = Rule("image_id", is_id, "a 64-bit integer")
FILE_NAME_RULE = Rule("file_name", is_file_name, "a file name")
_SIDE_RULES = [
    Rule(side, is_side, f"an integer from 1 to {MAX_SIDE}") for side in ("width", "height")
]
CATEGORY_RULES = [Rule("id", is_label, f"an integer from 0 to {LARGEST_LABEL}")]
LABEL_RULE = Rule("category_id", is_label, f"an integer from 0 to {LARGEST_LABEL}")
CROWD_RULE = Rule("iscrowd", is_flag, "0 or 1", required=False)


class Problem(NamedTuple):
    """What is wrong with some rows of a table.

    Attributes:
        table: name of the rows.
        rows: those concerned.
        text: what they do wrong.
        field: where, or None.
        way_out: what the user can do, where that is not to correct the rows.
    """

    table: str
    rows: Sequence[Row]
    text: str
    field: str | None
    way_out: str = ""

    def __str__(self) -> str:
        """How many rows, what is wrong, the first few, and the way out."""
        examples = first_few(self.table, self.rows, self.field)
        problem = f"{counted(len(self.rows), f'{self.table} {self.text}')}: {examples}"
        return f"{problem}; {self.way_out}" if self.way_out else problem


class AnnotationFileError(UserError):
    """An annotation file that cannot be used as it is.

    Attributes:
        problems: all that is wrong with it.
    """

    def __init__(self, message: str, problems: Iterable[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = list(problems)


class FileProblems:
    """What is wrong with one annotation file, collected so that one error can tell it all."""

    def __init__(self, ann_file: str | Path) -> None:
        self.ann_file = ann_file
        self.problems: list[Problem] = []

    def add(
        self, table: str, rows: list[Row], text: str, field: str | None = None, way_out: str = ""
    ) -> None:
        """Note a problem of some rows of a table, if there are any."""
        if rows:
            self.problems.append(Problem(table, rows, text, field, way_out))

    def raise_if_any(self) -> None:
        """Raise the one error that tells everything noted.

        Raises:
            AnnotationFileError: something has been noted.
        """
        if self.problems:
            told = "; ".join(map(str, self.problems))
            # A way out may be a flag, with nothing to correct in the file.
            verb = "" if all(one.way_out for one in self.problems) else " must be corrected"
            raise AnnotationFileError(f"{self.ann_file}{verb}: {told}", self.problems)


def first_few(table: str, rows: Sequence[Row], field: str | None) -> str:
    """The first few rows in words, and how many more there are."""
    few = [_describe(table, row, field) for row in rows[:EXAMPLES_SHOWN]]
    return with_rest(few, len(rows))


def _describe(table: str, row: Row, field: str | None) -> str:
    """The name by which a user finds a row again, and what stands in the field at fault."""
    owner = f"image id {in_short(row.get('image_id'))}"
    if table == "segment maps":
        name = f"segment map of {owner}"
    else:
        name = f"{singular(table)} id {in_short(row.get('id'))}"
        name += f" of {owner}" if table in ("annotations", "segments") else ""
    return name if field is None else f"{name} ({field} {in_short(row.get(field))})"


def check_table(found: FileProblems, table: str, rows: list[Row], rules: list[Rule]) -> None:
    """Every row must keep every rule, and no two rows may have the same id."""
    check_fields(found, table, rows, rules)
    check_unique(found, table, rows, "id")


def check_fields(found: FileProblems, table: str, rows: list[Row], rules: list[Rule]) -> None:
    """Every row must keep every rule."""
    for field, is_valid, must_be, required in rules:
        wrong = [row for row in rows if not is_valid(row.get(field))]
        absent = [row for row in wrong if row.get(field) is None]
        present = [row for row in wrong if row.get(field) is not None]
        found.add(table, present, f"have an invalid {field} (must be {must_be})", field)
        if required:
            found.add(table, absent, f"have no {field}")


def check_unique(found: FileProblems, table: str, rows: list[Row], field: str) -> None:
    """No two rows may have the same integer in a field."""
    counts = Counter(row[field] for row in rows if is_integer(row.get(field)))
    if len(counts) < len(rows):
        repeated = [row for row in rows if is_integer(row.get(field)) and counts[row[field]] > 1]
        found.add(table, repeated, f"share their {field} with another")


def check_image_sizes(found: FileProblems, images: list[Row]) -> None:
    """Every image must tell its width and height, and be one that can be read."""
    check_fields(found, "images", images, _SIDE_RULES)
    wide = [row for row in images if (size := size_wh(row)) and size[0] * size[1] > MAX_PIXELS]
    found.add("images", wide, f"have a width times height above {MAX_PIXELS}, more than is read")


def size_wh(image: Row) -> tuple[int, int] | None:
    """Width and height in pixels in a row of "images"; None where they are missing or invalid."""
    width, height = image.get("width"), image.get("height")
    return (width, height) if is_side(width) and is_side(height) else None


def sizes_wh_by_id(images: Iterable[Row]) -> dict[int, tuple[int, int]]:
    """Width and height in pixels of the images that have them, by image id."""
    identified = (row for row in images if is_integer(row.get("id")))
    return {row["id"]: size for row in identified if (size := size_wh(row))}


def check_mask_memory(found: FileProblems, images: list[Row], objects: Mapping[Any, int]) -> None:
    """The masks of an image must fit into memory.

    Args:
        found: takes the faults.
        images: rows of a file.
        objects: number of masks by image id.
    """
    crowded = [
        row
        for row in images
        if is_id(row.get("id"))
        and (size := size_wh(row))
        and objects.get(row["id"], 0) * size[0] * size[1] > MAX_MASK_PIXELS
    ]
    text = f"have more than {MAX_MASK_PIXELS} pixels in all their masks; scale them down or cut up"
    found.add("images", crowded, text)


def check_files_exist(
    found: FileProblems, table: str, rows: list[Row], folder: str | Path, flag: str | None = None
) -> None:
    """Every file that rows name must be in the folder; folders are listed, files not touched.

    Args:
        found: takes the faults.
        table: name of the rows.
        rows: to be checked.
        folder: that the names are relative to.
        flag: of the command line that names the folder, for the way out; None: there is none.
    """
    named = [row for row in rows if is_file_name(row.get("file_name"))]
    listings: dict[str, set[str]] = {}
    missing = []
    for row in named:
        subfolder, name = os.path.split(row["file_name"])
        if subfolder not in listings:
            listings[subfolder] = _listing(os.path.join(folder, subfolder))
        if name not in listings[subfolder]:
            missing.append(row)
    if missing:
        names = [row["file_name"] for row in missing]
        # Where only some are missing, no other folder is the right one.
        way_out = explain_missing_files(names, folder, flag if missing == named else None)
        found.add(table, missing, f"{NO_FILE} {folder}", "file_name", way_out)


def _listing(folder: str) -> set[str]:
    """Names of the files in a folder; none where there can be no such folder.

    Raises:
        UserError: the folder may not be looked into.
    """
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)}
    except PermissionError as error:
        raise UserError(
            f"folder {folder} cannot be listed ({error.strerror}); give yourself the right to"
        ) from None
    except OSError:  # besides folders that are not there: names too long, circles of links
        return set()


def warn_about_paths(ann_file: str | Path, table: str, rows: list[Row], folder: str | Path) -> None:
    """Log one line about files that are named by a path out of the folder, if there are any.

    Args:
        ann_file: where the rows were read, for the message.
        table: name of the rows.
        rows: with a ``file_name`` each.
        folder: that the names are relative to.
    """
    outside = [row for row in rows if leads_outside(row["file_name"], folder)]
    if outside:
        logger.warning(
            "%s: %s; the files are read: %s",
            ann_file,
            counted(len(outside), f"{table} have a file_name that leads out of {folder}"),
            first_few(table, outside, "file_name"),
        )


def leads_outside(file_name: str, folder: str | Path) -> bool:
    """Whether a path, which may be absolute, leads out of a folder; links are not followed."""
    if not os.path.isabs(file_name) and ".." not in file_name:
        return False
    inner = os.path.abspath(folder)
    return os.path.commonpath([inner, os.path.abspath(os.path.join(inner, file_name))]) != inner


def check_references(
    found: FileProblems, table: str, rows: list[Row], field: str, referred: list[Row]
) -> None:
    """What rows refer to must be in the file. Values of a wrong type are told elsewhere.

    Args:
        found: takes the faults.
        table: name of the rows.
        rows: to be checked.
        field: "image_id" or "category_id".
        referred: the table of images or categories.
    """
    known = {row["id"] for row in referred if is_integer(row.get("id"))}
    stray = [row for row in rows if is_integer(row.get(field)) and row[field] not in known]
    target = "images" if field == "image_id" else "categories"
    found.add(table, stray, f"have a {field} that is not among the {target}", field)


def check_labels_below(
    found: FileProblems, table: str, rows: list[Row], num_classes: int, categories: list[Row]
) -> None:
    """The label is the category id, so a number of classes must leave room for the largest."""
    beyond = [
        row
        for row in rows
        if is_integer(row.get("category_id")) and row["category_id"] >= num_classes
    ]
    if not beyond:
        return
    labels = [row["category_id"] for row in beyond]
    labels += [row["id"] for row in categories if is_label(row.get("id"))]
    largest = max(labels)
    way_out = (
        f"--num_classes {num_classes} is too small: the largest category id is {largest}, so "
        f"{largest + 1} are needed; leave the flag out to have it counted, or where the number "
        "comes from a checkpoint start with --finetune"
    )
    problem = f"have a category_id not below {num_classes}, the number of classes"
    found.add(table, beyond, problem, "category_id", way_out)
