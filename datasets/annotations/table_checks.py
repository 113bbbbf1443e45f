"""Checks of tables, for instance and panoptic files; all problems are raised as one error."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from datasets.annotations.coco_file import (
    ORIGIN,
    TEXT_ID,
    Row,
    is_file_name,
    is_integer,
    text_ids,
)
from datasets.annotations.segmentations import MAX_MASK_PIXELS
from util.errors import UserError
from util.files.image_files import MAX_PIXELS, MAX_SIDE
from util.text import EXAMPLES_SHOWN, counted, first_of, shortened, singular

_LARGEST_ID = 2**63 - 1  # in an int64 tensor


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


def check_not_empty(images: list[Row], ann_file: str | Path) -> None:
    """Check that an annotation file lists images.

    Raises:
        UserError: if there are no images.
    """
    if not images:
        raise UserError(f"annotation file {ann_file} has no images; a split needs at least one")


def size_wh(image: Row) -> tuple[int, int] | None:
    """Width and height in pixels of a row of "images"; None if they are missing or invalid."""
    width, height = image.get("width"), image.get("height")
    return (width, height) if is_side(width) and is_side(height) else None


def sizes_wh_by_id(images: Iterable[Row]) -> dict[int, tuple[int, int]]:
    """Width and height in pixels of the images that have them, by image id."""
    identified = (row for row in images if is_integer(row.get("id")))
    return {row["id"]: size for row in identified if (size := size_wh(row))}


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


class TableChecks:
    """Checks of the tables of an annotation file; collects the problems, to raise one error.

    Each check has the arguments ``table`` (name of the rows in messages) and ``rows``.
    """

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

    def check_table(self, table: str, rows: list[Row], rules: list[Rule]) -> None:
        """Check that rows follow the rules and have unique ids."""
        self.check_fields(table, rows, rules)
        self.check_unique(table, rows, "id")

    def check_fields(self, table: str, rows: list[Row], rules: list[Rule]) -> None:
        """Check that rows follow the rules."""
        for field, is_valid, must_be, required in rules:
            invalid = [row for row in rows if not is_valid(row.get(field))]
            absent = [row for row in invalid if row.get(field) is None]
            present = [row for row in invalid if row.get(field) is not None]
            self.add(table, present, f"have an invalid {field} (must be {must_be})", field)
            if required:
                self.add(table, absent, f"have no {field}")

    def check_unique(self, table: str, rows: list[Row], field: str) -> None:
        """Check that no two rows have the same integer in a field."""
        valid = [row for row in rows if is_integer(row.get(field))]
        counts = Counter(row[field] for row in valid)
        if len(counts) < len(valid):
            repeated = [row for row in valid if counts[row[field]] > 1]
            self.add(table, repeated, f"have the same {field} as another")

    def check_image_sizes(self, images: list[Row]) -> None:
        """Check that widths and heights are within the limits of `util.files.image_files`."""
        self.check_fields("images", images, _SIDE_RULES)
        wide = [row for row in images if (size := size_wh(row)) and size[0] * size[1] > MAX_PIXELS]
        text = f"have a width times height above the limit of {MAX_PIXELS} pixels"
        self.add("images", wide, text)

    def check_mask_memory(self, images: list[Row], objects: Mapping[Any, int]) -> None:
        """Check that the masks of each image fit into memory.

        Args:
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
            f"have masks with more than {MAX_MASK_PIXELS} pixels in total; scale the images down "
            "or split them into tiles"
        )
        self.add("images", crowded, text)

    def check_references(
        self, table: str, rows: list[Row], field: str, referred: list[Row]
    ) -> None:
        """Check that the images or categories of rows exist; `check_fields` reports invalid types.

        Args:
            table: name of the rows in messages.
            field: "image_id" or "category_id".
        """
        known = {row["id"] for row in referred if is_integer(row.get("id"))}
        stray = [row for row in rows if is_integer(row.get(field)) and row[field] not in known]
        target = "images" if field == "image_id" else "categories"
        self.add(table, stray, f"have a {field} that is not among the {target}", field)

    def check_labels_below(
        self, table: str, rows: list[Row], num_classes: int, categories: list[Row]
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
                f"--num_classes {num_classes} is too small: the largest category id is {largest}, "
                f"so {largest + 1} are needed; omit --num_classes, or use --finetune if the "
                "number comes from a checkpoint"
            )
        problem = f"have a category_id of at least {num_classes}, the number of classes"
        self.add(table, beyond, problem, "category_id", fix)


def first_few(table: str, rows: Sequence[Row], field: str | None, total: int | None = None) -> str:
    """Describe the first few rows, and how many more there are; ``total`` if not all are given."""
    examples = [_describe(table, row, field) for row in rows[:EXAMPLES_SHOWN]]
    return first_of(examples, total=len(rows) if total is None else total)


def _describe(table: str, row: Row, field: str | None) -> str:
    """Identify a row by its file or ids, and show the value of the invalid field."""
    owner = f"image id {shortened(row.get('image_id'))}"
    if ORIGIN in row:
        name = f"{singular(table)} in {row[ORIGIN]}"
    elif table == "segment maps":
        name = f"segment map of {owner}"
    else:
        name = f"{singular(table)} id {shortened(row.get(TEXT_ID, row.get('id')))}"
        name += f" of {owner}" if table in ("annotations", "segments") else ""
    return name if field is None else f"{name} ({field} {shortened(row.get(field))})"
