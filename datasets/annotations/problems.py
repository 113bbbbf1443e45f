"""Problems of an annotation file, collected and raised as one error."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.annotations.coco_file import ORIGIN, TEXT_ID, Row
from util.errors import UserError
from util.text import EXAMPLES_SHOWN, counted, first_of, in_short, singular


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
    return first_of(examples, total=len(rows) if total is None else total)


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
