"""Table checks shared by instance and panoptic annotation files.

The problems of a file are collected in `FileProblems` and raised as one error.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from datasets.annotations.coco_file import ORIGIN, TEXT_ID, Row, is_integer, text_ids
from datasets.annotations.missing_files import explain_missing_files
from datasets.annotations.segmentations import MAX_MASK_PIXELS
from datasets.annotations.wording import EXAMPLES_SHOWN, counted, in_short, singular, with_rest
from util.errors import UserError
from util.files.image_files import MAX_PIXELS, MAX_SIDE

NO_FILE = "have no file in"  # beginning of the text about missing files
_LARGEST_ID = 2**63 - 1  # in an int64 tensor

logger = logging.getLogger(__name__)


class Rule(NamedTuple):
    """Requirement on a field of a table."""

    field: str
    is_valid: Callable[[Any], bool]
    must_be: str
    required: bool = True


def is_label(value: Any) -> bool:
    """Whether a value can be a category id."""
    return is_id(value) and value >= 0


def is_id(value: Any) -> bool:
    """Whether a value is an integer that fits into an int64 tensor."""
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
    except UnicodeEncodeError:  # a lone UTF-16 surrogate
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
_CATEGORY_ID = "a 64-bit integer of at least 0, or a string"
CATEGORY_RULES = [Rule("id", is_label, _CATEGORY_ID)]
LABEL_RULE = Rule("category_id", is_label, 'the id of a category, as in the table "categories"')
CROWD_RULE = Rule("iscrowd", is_flag, "0 or 1", required=False)


class Problem(NamedTuple):
    """A problem in some rows of a table.

    Attributes:
        table: name of the table in messages, plural.
        rows: the invalid rows.
        text: predicate of the message, plural: "have no id".
        field: the invalid field, shown with its value; or None.
        fix: how to fix the problem; empty: by correcting the rows.
    """

    table: str
    rows: Sequence[Row]
    text: str
    field: str | None
    fix: str = ""

    def __str__(self) -> str:
        """Number of rows, problem, the first few rows, and how to fix it."""
        examples = first_few(self.table, self.rows, self.field)
        problem = f"{counted(len(self.rows), f'{self.table} {self.text}')}: {examples}"
        return f"{problem}; {self.fix}" if self.fix else problem


class AnnotationFileError(UserError):
    """An invalid annotation file.

    Attributes:
        problems: all problems of the file.
    """

    def __init__(self, message: str, problems: Iterable[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = list(problems)


class FileProblems:
    """Collects the problems of an annotation file, to raise them as one error."""

    def __init__(self, ann_file: str | Path) -> None:
        self.ann_file = ann_file
        self.problems: list[Problem] = []

    def add(
        self, table: str, rows: list[Row], text: str, field: str | None = None, fix: str = ""
    ) -> None:
        """Add a problem if it has any rows; see `Problem` for the arguments."""
        if rows:
            self.problems.append(Problem(table, rows, text, field, fix))

    def raise_if_any(self) -> None:
        """Raise one error with all problems.

        Raises:
            AnnotationFileError: if there are problems.
        """
        if self.problems:
            text = "; ".join(map(str, self.problems))
            # If every problem has its own fix, the file itself may be correct.
            verb = "" if all(problem.fix for problem in self.problems) else " must be corrected"
            raise AnnotationFileError(f"{self.ann_file}{verb}: {text}", self.problems)


def first_few(table: str, rows: Sequence[Row], field: str | None, total: int | None = None) -> str:
    """Describe the first few rows, and how many more there are; ``total`` if not all are given."""
    examples = [_describe(table, row, field) for row in rows[:EXAMPLES_SHOWN]]
    return with_rest(examples, len(rows) if total is None else total)


def _describe(table: str, row: Row, field: str | None) -> str:
    """Identify a row by its file or ids, and show the value of the invalid field."""
    owner = f"image id {in_short(row.get('image_id'))}"
    if ORIGIN in row:
        name = f"{singular(table)} in {row[ORIGIN]}"
    elif table == "segment maps":
        name = f"segment map of {owner}"
    else:
        name = f"{singular(table)} id {in_short(row.get(TEXT_ID, row.get('id')))}"
        name += f" of {owner}" if table in ("annotations", "segments") else ""
    return name if field is None else f"{name} ({field} {in_short(row.get(field))})"


def check_not_empty(images: list[Row], ann_file: str | Path) -> None:
    """Check that an annotation file lists images.

    Raises:
        UserError: if there are no images.
    """
    if not images:
        raise UserError(f"annotation file {ann_file} has no images; a split needs at least one")


def check_table(found: FileProblems, table: str, rows: list[Row], rules: list[Rule]) -> None:
    """Check that rows follow the rules and have unique ids."""
    check_fields(found, table, rows, rules)
    check_unique(found, table, rows, "id")


def check_fields(found: FileProblems, table: str, rows: list[Row], rules: list[Rule]) -> None:
    """Check that rows follow the rules."""
    for field, is_valid, must_be, required in rules:
        invalid = [row for row in rows if not is_valid(row.get(field))]
        absent = [row for row in invalid if row.get(field) is None]
        present = [row for row in invalid if row.get(field) is not None]
        found.add(table, present, f"have an invalid {field} (must be {must_be})", field)
        if required:
            found.add(table, absent, f"have no {field}")


def check_unique(found: FileProblems, table: str, rows: list[Row], field: str) -> None:
    """Check that no two rows have the same integer in a field."""
    counts = Counter(row[field] for row in rows if is_integer(row.get(field)))
    if len(counts) < len(rows):
        repeated = [row for row in rows if is_integer(row.get(field)) and counts[row[field]] > 1]
        found.add(table, repeated, f"share their {field} with another")


def check_image_sizes(found: FileProblems, images: list[Row]) -> None:
    """Check that images have a width and a height within the limits of `util.files.image_files`."""
    check_fields(found, "images", images, _SIDE_RULES)
    wide = [row for row in images if (size := size_wh(row)) and size[0] * size[1] > MAX_PIXELS]
    found.add("images", wide, f"have a width times height above the limit of {MAX_PIXELS} pixels")


def size_wh(image: Row) -> tuple[int, int] | None:
    """Width and height in pixels of a row of "images"; None if they are missing or invalid."""
    width, height = image.get("width"), image.get("height")
    return (width, height) if is_side(width) and is_side(height) else None


def sizes_wh_by_id(images: Iterable[Row]) -> dict[int, tuple[int, int]]:
    """Width and height in pixels of the images that have them, by image id."""
    identified = (row for row in images if is_integer(row.get("id")))
    return {row["id"]: size for row in identified if (size := size_wh(row))}


def check_mask_memory(found: FileProblems, images: list[Row], objects: Mapping[Any, int]) -> None:
    """Check that the masks of each image fit into memory.

    Args:
        found: receives the problems.
        images: rows of the table "images".
        objects: number of masks by image id.
    """
    crowded = [
        row
        for row in images
        if is_id(row.get("id"))
        and (size := size_wh(row))
        and objects.get(row["id"], 0) * size[0] * size[1] > MAX_MASK_PIXELS
    ]
    text = (
        f"have masks with more than {MAX_MASK_PIXELS} pixels in total; scale the images down or "
        "split them into tiles"
    )
    found.add("images", crowded, text)


def check_files_exist(
    found: FileProblems, table: str, rows: list[Row], folder: str | Path, flag: str | None = None
) -> None:
    """Check that every ``file_name`` exists, by listing the folders.

    Args:
        found: receives the problems.
        table: name of the rows in messages.
        rows: rows with a ``file_name``.
        folder: folder that the names are relative to.
        flag: flag that sets the folder, for the hint in the message; None if there is none.
    """
    named = [row for row in rows if is_file_name(row.get("file_name"))]
    missing = [named[i] for i in absent_files([row["file_name"] for row in named], folder)]
    if missing:
        names = [row["file_name"] for row in missing]
        # If some files exist, the folder is right.
        fix = explain_missing_files(names, folder, flag if missing == named else None)
        found.add(table, missing, f"{NO_FILE} {folder}", "file_name", fix)


def absent_files(names: Iterable[str], folder: str | Path) -> list[int]:
    """Find files that do not exist, by listing the folders.

    Args:
        names: valid file names.
        folder: folder that the names are relative to.

    Returns:
        numbers of the names.

    Raises:
        UserError: if there is no permission to list a folder.
    """
    listings: dict[str, set[str]] = {}
    absent = []
    for number, path in enumerate(names):
        subfolder, name = os.path.split(path)
        if subfolder not in listings:
            listings[subfolder] = _listing(os.path.join(folder, subfolder))
        if name not in listings[subfolder]:
            absent.append(number)
    return absent


def _listing(folder: str) -> set[str]:
    """Names of the files in a folder; empty if the folder does not exist.

    Raises:
        UserError: if there is no permission to list the folder.
    """
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)}
    except PermissionError as error:
        raise UserError(
            f"folder {folder} cannot be listed ({error.strerror}); check its permissions"
        ) from None
    except OSError:  # including names that are too long, and circular links
        return set()


def warn_about_paths(ann_file: str | Path, table: str, rows: list[Row], folder: str | Path) -> None:
    """Log one warning if file names point outside the folder.

    Args:
        ann_file: path of the annotation file, for the message.
        table: name of the rows in the message.
        rows: rows with a ``file_name``.
        folder: folder that the names are relative to.
    """
    outside = [row for row in rows if leads_outside(row["file_name"], folder)]
    if outside:
        logger.warning(
            "%s: %s; they are read anyway: %s",
            ann_file,
            counted(len(outside), f"{table} have a file_name that points outside {folder}"),
            first_few(table, outside, "file_name"),
        )


def leads_outside(file_name: str, folder: str | Path) -> bool:
    """Whether a relative or absolute path points outside a folder; links are not followed."""
    if not os.path.isabs(file_name) and ".." not in file_name:
        return False
    inner = os.path.abspath(folder)
    return os.path.commonpath([inner, os.path.abspath(os.path.join(inner, file_name))]) != inner


def check_references(
    found: FileProblems, table: str, rows: list[Row], field: str, referred: list[Row]
) -> None:
    """Check that the images or categories of rows exist; `check_fields` reports invalid types.

    Args:
        found: receives the problems.
        table: name of the rows in messages.
        rows: rows to check.
        field: "image_id" or "category_id".
        referred: the table "images" or "categories".
    """
    known = {row["id"] for row in referred if is_integer(row.get("id"))}
    stray = [row for row in rows if is_integer(row.get(field)) and row[field] not in known]
    target = "images" if field == "image_id" else "categories"
    found.add(table, stray, f"have a {field} that is not among the {target}", field)


def check_labels_below(
    found: FileProblems, table: str, rows: list[Row], num_classes: int, categories: list[Row]
) -> None:
    """Check that category ids used as rows of the classification head are below num_classes."""
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
    fix = "omit --num_classes: it needs integer category ids, but some ids are strings"
    if largest not in text_ids(categories):
        fix = (
            f"--num_classes {num_classes} is too small: the largest category id is {largest}, so "
            f"{largest + 1} are needed; omit --num_classes, or use --finetune if the number "
            "comes from a checkpoint"
        )
    problem = f"have a category_id of at least {num_classes}, the number of classes"
    found.add(table, beyond, problem, "category_id", fix)
