"""Checks of the tables of annotation files, whatever they annotate.

A file's faults are collected in `Findings`, so that one error tells them all.
"""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from datasets.annotations import Row, is_integer
from util.errors import UserError

_EXAMPLES_SHOWN = 3
_SINGULAR = {
    "annotations": "annotation",
    "segments": "segment",
    "images": "image",
    "categories": "category",
}
LARGEST_LABEL = 100_000  # a model has a logit for every id up to the largest


class Rule(NamedTuple):
    """What one field of a table must be."""

    field: str
    is_valid: Callable[[Any], bool]
    must_be: str
    required: bool = True


def is_label(value: Any) -> bool:
    """Whether a value can be a category id."""
    return type(value) is int and 0 <= value <= LARGEST_LABEL


def is_positive(value: Any) -> bool:
    """Whether a value is a positive integer."""
    return type(value) is int and value > 0


def is_file_name(value: Any) -> bool:
    """Whether a value can be the name of a file."""
    return type(value) is str and value != ""


def is_flag(value: Any) -> bool:
    """Whether a value is 0 or 1."""
    return type(value) in (int, bool) and value in (0, 1)


ID_RULE = Rule("id", is_integer, "an integer")
IMAGE_ID_RULE = Rule("image_id", is_integer, "an integer")
FILE_NAME_RULE = Rule("file_name", is_file_name, "a file name")
IMAGE_SIZE_RULES = [
    Rule("width", is_positive, "a positive integer"),
    Rule("height", is_positive, "a positive integer"),
]
CATEGORY_RULES = [Rule("id", is_label, f"an integer from 0 to {LARGEST_LABEL}")]
LABEL_RULE = Rule("category_id", is_label, f"an integer from 0 to {LARGEST_LABEL}")
CROWD_RULE = Rule("iscrowd", is_flag, "0 or 1", required=False)


class Findings:
    """What is wrong with one annotation file, collected so that one error can tell it all."""

    def __init__(self, ann_file: str | Path) -> None:
        self.ann_file = ann_file
        self.problems: list[str] = []

    def add(self, table: str, rows: list[Row], problem: str, field: str | None = None) -> None:
        """Note a problem of some rows of a table: how many, and the ids of the first few."""
        if rows:
            examples = first_few(table, rows, field)
            self.problems.append(f"{len(rows)} of the {table} {problem}: {examples}")

    def raise_if_any(self) -> None:
        """Raise the one error that tells everything noted."""
        if self.problems:
            raise UserError(f"{self.ann_file} must be mended: {'; '.join(self.problems)}")


def first_few(table: str, rows: list[Row], field: str | None) -> str:
    """The first few rows in words, and how many more there are."""
    few = [_describe(table, row, field) for row in rows[:_EXAMPLES_SHOWN]]
    more = len(rows) - len(few)
    return ", ".join(few) + (f" and {more} more" if more else "")


def _describe(table: str, row: Row, field: str | None) -> str:
    """The name by which a user finds a row again, and what stands in the field at fault."""
    owner = f"image id {row.get('image_id')!r}"
    if table == "segment maps":
        name = f"that of {owner}"
    else:
        name = f"{_SINGULAR[table]} id {row.get('id')!r}"
        name += f" of {owner}" if table in ("annotations", "segments") else ""
    return name if field is None else f"{name} ({field} {row.get(field)!r:.60})"


def check_table(found: Findings, table: str, rows: list[Row], rules: list[Rule]) -> None:
    """Every row must keep every rule, and no two rows may have the same id."""
    check_fields(found, table, rows, rules)
    check_unique(found, table, rows, "id")


def check_fields(found: Findings, table: str, rows: list[Row], rules: list[Rule]) -> None:
    """Every row must keep every rule."""
    for field, is_valid, must_be, required in rules:
        wrong = [row for row in rows if not is_valid(row.get(field))]
        absent = [row for row in wrong if row.get(field) is None]
        present = [row for row in wrong if row.get(field) is not None]
        found.add(table, present, f"have a wrong {field}, which must be {must_be}", field)
        if required:
            found.add(table, absent, f"have no {field}")


def check_unique(found: Findings, table: str, rows: list[Row], field: str) -> None:
    """No two rows may have the same integer in a field."""
    counts = Counter(row[field] for row in rows if is_integer(row.get(field)))
    if len(counts) < len(rows):
        repeated = [row for row in rows if is_integer(row.get(field)) and counts[row[field]] > 1]
        found.add(table, repeated, f"share their {field} with another")


def check_files_exist(found: Findings, table: str, rows: list[Row], folder: str | Path) -> None:
    """Every file that rows name must be in the folder; folders are listed, files not touched."""
    named = [row for row in rows if is_file_name(row.get("file_name"))]
    listings: dict[str, set[str]] = {}
    missing = []
    for row in named:
        subfolder, name = os.path.split(row["file_name"])
        if subfolder not in listings:
            listings[subfolder] = _listing(os.path.join(folder, subfolder))
        if name not in listings[subfolder]:
            missing.append(row)
    found.add(table, missing, f"have no file in {folder}", "file_name")


def _listing(folder: str) -> set[str]:
    """Names of what is in a folder; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def check_references(
    found: Findings, table: str, rows: list[Row], field: str, referred: list[Row]
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


def check_labels_below(found: Findings, table: str, rows: list[Row], num_classes: int) -> None:
    """The label is the category id, so a number of classes must leave room for the largest."""
    beyond = [
        row
        for row in rows
        if is_integer(row.get("category_id")) and row["category_id"] >= num_classes
    ]
    problem = (
        f"have a category_id that is not below the number of classes (--num_classes {num_classes})"
    )
    found.add(table, beyond, problem, "category_id")
