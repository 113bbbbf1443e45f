"""Recognize annotation formats other than COCO JSON."""

import contextlib
import os
import re
import shlex
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

_BEGINNINGS = (
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"PK\x03\x04", "a zip archive: unpack it"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
)
_CONVERT = "convert it to COCO JSON"
_READ_FOLDER = "read its folder with --data"
_CHARACTERS_SNIFFED = 2000
_YOLO_LABEL = re.compile(r"\d+(\.0*)?(\s+-?\d*\.?\d+(e[+-]?\d+)?){4,}\s*$", re.IGNORECASE)
_YAML_KEY = re.compile(r"[\w-]+:(\s|$)")
_LABEL_SUFFIXES = {".xml", ".txt", ".yaml", ".yml"}
_FILES_SNIFFED = 20
_FOLDERS_SNIFFED = 100


def recognize_binary(content: bytes) -> str | None:
    """Describe a binary file by its first bytes; None if unknown."""
    return next((what for start, what in _BEGINNINGS if content.startswith(start)), None)


def recognize_text(text: str) -> str | None:
    """Describe the format of a text that is not JSON, with a hint how to use it; None if unknown.

    >>> recognize_text("<annotation><folder>images</folder></annotation>")
    'Pascal VOC XML: read its folder with --data'
    """
    beginning = text[:_CHARACTERS_SNIFFED].lstrip("\ufeff \t\r\n")
    if beginning.startswith("<"):
        return _recognize_markup(beginning)
    if beginning.startswith("{") and "\n{" in text:
        return f"JSON Lines (one object per line): {_CONVERT}"
    lines = [line for line in beginning.splitlines() if line.strip() and line[0] not in "#%"]
    if not lines or lines[0][0] in "{[":
        return None
    if _YOLO_LABEL.match(lines[0]):
        return f"YOLO labels: {_READ_FOLDER}"
    if _YAML_KEY.match(lines[0]):
        is_yolo = any(line.startswith(("names:", "nc:")) for line in lines)
        return "the YAML file of a YOLO dataset: read it with --data" if is_yolo else "YAML"
    for separator, name in ((",", "CSV"), (";", "CSV"), ("\t", "a table")):
        if lines[0].count(separator) >= 2:
            return f"{name}: {_CONVERT}"
    return None


def _recognize_markup(beginning: str) -> str:
    lowered = beginning.lower()
    if "<html" in lowered or "<!doctype html" in lowered:
        return "a web page: download the file itself"
    if "<annotations" in lowered:
        return f"CVAT XML: {_CONVERT} (CVAT exports it)"
    is_voc = "<annotation" in lowered
    return f"Pascal VOC XML: {_READ_FOLDER}" if is_voc else f"XML: {_CONVERT}"


def recognize_folder(folder: Path) -> str | None:
    """Describe the annotation format of a folder, with a hint how to read it; None if unknown.

    Args:
        folder: folder, searched three levels deep.
    """
    if (found := find_label_file(folder)) is None:
        return None
    what, file = found
    return f"{what} ({file}): read it with --data {shlex.quote(str(folder))}"


def find_label_file(folder: Path) -> tuple[str, Path] | None:
    """Find a Pascal VOC or YOLO file; None if there is none.

    Args:
        folder: folder, searched three levels deep.

    Returns:
        Name of the format, and path of the file.
    """
    with contextlib.suppress(PermissionError):
        for place in islice(_with_folders_in(folder, levels=3), _FOLDERS_SNIFFED):
            for file in _label_files(place):
                if what := _recognize_label_file(file):
                    return what, file
    return None


def _with_folders_in(folder: Path, levels: int) -> Iterator[Path]:
    yield folder
    if levels:
        with os.scandir(folder) as entries:
            inner_folders = sorted(Path(entry.path) for entry in entries if entry.is_dir())
        for inner in inner_folders:
            yield from _with_folders_in(inner, levels - 1)


def _label_files(folder: Path) -> list[Path]:
    files = (path for path in folder.iterdir() if path.suffix.lower() in _LABEL_SUFFIXES)
    return sorted(islice(files, _FILES_SNIFFED))


def is_voc_file(file: Path) -> bool:
    """Whether a file begins like a Pascal VOC annotation file."""
    return _recognize_label_file(file) == "Pascal VOC"


def is_yolo_label_file(file: Path) -> bool:
    """Whether a text file begins like a YOLO label file."""
    return _recognize_label_file(file) == "YOLO"


def _recognize_label_file(file: Path) -> str | None:
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            found = recognize_text(opened.read(_CHARACTERS_SNIFFED)) or ""
    except OSError:
        return None
    if found.startswith("Pascal VOC"):
        return "Pascal VOC"
    return "YOLO" if "YOLO" in found else None
