"""Checks of the files that the rows of an annotation file name."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets.annotations.coco_file import Row
from datasets.annotations.missing_files import explain_missing_files
from datasets.annotations.problems import FileProblems, first_few
from util.errors import UserError
from util.text import counted

NO_FILE = "have no file in"  # beginning of the text about missing files

logger = logging.getLogger(__name__)


def is_file_name(value: Any) -> bool:
    """Whether a value can be the name of a file."""
    if type(value) is not str or not value or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:  # a lone UTF-16 surrogate
        return False
    return True


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
    """Names of the files in a folder; empty if the folder does not exist."""
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
