"""Unique names of output files, derived from the names and subfolders of the inputs."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

# Formats that store 8-bit RGB without a palette; for other inputs ".png" is appended.
_KEPT_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def picture_name(name: str) -> str:
    """File name of the annotated image of an input.

    >>> picture_name("a/photo.jpg"), picture_name("a/scan.gif")
    ('a/photo.jpg', 'a/scan.gif.png')
    """
    return name if Path(name).suffix.lower() in _KEPT_SUFFIXES else png_name(name)


def png_name(name: str) -> str:
    """File name of a PNG for an input.

    >>> png_name("a/photo.jpg"), png_name("a/scan.png")
    ('a/photo.jpg.png', 'a/scan.png')
    """
    return name if name.lower().endswith(".png") else f"{name}.png"


def printable(name: str) -> str:
    """Escape bytes of a file name that are not valid UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def unique_names(paths: Sequence[str], names: Sequence[str]) -> list[str]:
    """Make the names of the output files unique.

    Equal names are extended with the folders in which the inputs differ, or with a number.

    Args:
        paths: [N] absolute paths of the inputs, all different.
        names: [N] preferred names: relative paths with ``/``.

    >>> unique_names(["/a/x.jpg", "/b/x.jpg", "/b/y.jpg"], ["x.jpg", "x.jpg", "y.jpg"])
    ['a/x.jpg', 'b/x.jpg', 'y.jpg']
    """
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(_key(name), []).append(index)
    changed = list(names)
    for indices in groups.values():
        if len(indices) > 1:
            root = os.path.commonpath([os.path.dirname(paths[i]) for i in indices])
            for i in indices:
                changed[i] = Path(os.path.relpath(paths[i], root)).as_posix()
    return _numbered(changed)


def _numbered(names: Sequence[str]) -> list[str]:
    """Add ``-2``, ``-3``, … to the second and later of equal names."""
    counts = Counter(map(_key, names))
    taken: set[str] = set()
    numbered = []
    for name in names:
        candidate, number = name, 1
        while _key(candidate) in taken or (number > 1 and _key(candidate) in counts):
            number += 1
            path = Path(name)
            candidate = path.with_name(f"{path.stem}-{number}{path.suffix}").as_posix()
        taken.add(_key(candidate))
        numbered.append(candidate)
    return numbered


def _key(name: str) -> str:
    """Key that is equal for names with the same output file on a case-insensitive file system."""
    return picture_name(name).lower().removesuffix(".png")
