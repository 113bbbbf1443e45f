"""Check that listed files exist, and explain why files are missing."""

import logging
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from datasets.annotations.coco_file import Row, is_file_name
from datasets.annotations.table_checks import TableChecks, first_few
from util.errors import UserError
from util.text import counted

NO_FILE = "have no file in"  # beginning of the text about missing files

logger = logging.getLogger(__name__)
_NAMES_TRIED = 20
_SPELLINGS_TRIED = 3
_FOLDERS_TRIED = 200
_PARENTS_TRIED = 3
# Folders whose files often have the same names as the images.
_MASK_FOLDERS = ("panoptic", "mask", "label", "segment", "depth")


def check_files_exist(
    found: TableChecks, table: str, rows: list[Row], folder: str | Path, flag: str | None = None
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


def warn_about_paths(
    ann_file: str | Path, table: str, outside: Sequence[Row], folder: str | Path
) -> None:
    """Log one warning about rows whose file name points outside the folder, if there are any.

    Args:
        ann_file: path of the annotation file, for the message.
        table: name of the rows in the message.
        outside: rows for which `leads_outside` is true.
        folder: folder that the names are relative to.
    """
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


def explain_missing_files(names: Sequence[str], folder: str | Path, flag: str | None) -> str:
    """Explain why image files are not found, and what to do.

    Only the first few names are looked up, and only in folders near ``folder``.

    Args:
        names: file names from the annotation file, none of which exists in the folder.
        flag: flag that sets the folder, such as ``--train_images``; None if a different folder
            cannot be right.

    Returns:
        One clause of an error message.
    """
    folder, tried = Path(folder), list(names[:_NAMES_TRIED])
    if flag is not None and (found := find_folder_with(tried, folder, flag)) is not None:
        return f"{_compare_folders(tried, folder, found)}: use {flag} {shlex.quote(str(found))}"
    explanations: tuple[Callable[[Sequence[str], Path], str | None], ...] = (
        _explain_folders,
        _explain_spelling,
        _explain_prefix,
    )
    for explain in explanations:
        if (text := explain(tried, folder)) is not None:
            return text
    return _describe_content(folder, flag)


def _compare_folders(names: Sequence[str], folder: Path, found: Path) -> str:
    """Describe the difference between the searched folder and the folder with the files."""
    if found in folder.parents:
        prefix = f"{folder.relative_to(found)}/"
        if all(name.startswith(prefix) for name in names):
            return f"every file_name already begins with {prefix}"
    return f"the files exist in {found}"


def find_folder_with(names: Sequence[str], folder: Path, split: str) -> Path | None:
    """Find a folder nearby that contains all files; mask folders are tried last.

    Args:
        names: file names; the first few are looked up.
        folder: where the search starts.
        split: contains "train" or "val"; folders of the other split are tried last.
    """
    names = names[:_NAMES_TRIED]
    other_split = "val" if "train" in split else "train"

    def doubt(candidate: Path) -> tuple[bool, bool]:
        """Sort key: folders of masks and of the other split come last."""
        name = candidate.name.lower()
        return any(word in name for word in _MASK_FOLDERS), other_split in name

    for candidate in sorted(islice(_folders_near(folder), _FOLDERS_TRIED), key=doubt):
        if all(_is_file(candidate / name) for name in names):
            return candidate
    return None


def _folders_near(folder: Path) -> Iterator[Path]:
    """Yield parents, two levels of subfolders of ``folder``, and one level of each parent."""
    parents = list(folder.parents)[:_PARENTS_TRIED]
    children = _subfolders(folder)
    yield from (*parents, *children)
    for subfolder in (*children, *parents):
        yield from _subfolders(subfolder)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in _entries(folder) if entry.is_dir())


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (OSError, ValueError):  # missing, or an invalid name
        return []


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _explain_folders(names: Sequence[str], folder: Path) -> str | None:
    """Detect names of folders."""
    for name in names:
        try:
            if (folder / name).is_dir():
                return f"{folder / name} is a folder, but file_name must be an image file"
        except (OSError, ValueError):
            continue
    return None


def _explain_spelling(names: Sequence[str], folder: Path) -> str | None:
    """Detect names that differ from an existing file only in case or extension."""
    for name in names[:_SPELLINGS_TRIED]:
        parent, own = (folder / name).parent, Path(name).name
        others = sorted(entry.name for entry in _entries(parent))
        for difference, key in (("in case", str.lower), ("in its extension", _stem)):
            for other in others:
                if key(other) == key(own):
                    return (
                        f"{parent / other} differs from {own} only {difference}: rename the files, "
                        "or correct file_name in the annotation file"
                    )
    return None


def _stem(name: str) -> str:
    return Path(name).stem.lower()


def _explain_prefix(names: Sequence[str], folder: Path) -> str | None:
    """Detect names with folders that do not exist, such as folders of another machine."""
    prefix = names[0].removesuffix(_last_part(names[0]))
    if prefix and all(_is_file(folder / _last_part(name)) for name in names):
        return f"the files exist without {prefix}: remove it from file_name in the annotation file"
    return None


def _last_part(name: str) -> str:
    r"""Return a name without its folders, with either separator.

    >>> _last_part("train/a.jpg"), _last_part(r"train\a.jpg")
    ('a.jpg', 'a.jpg')
    """
    return name.replace("\\", "/").rpartition("/")[2]


def _describe_content(folder: Path, flag: str | None) -> str:
    if flag is None:
        return "add the files, or remove them from the annotation file"
    files = (entry.name for entry in _entries(folder) if entry.is_file())
    first = next(files, None)
    content = "no files" if first is None else f"files such as {first}"
    return f"the folder contains {content}: give the folder of these images with {flag}"
