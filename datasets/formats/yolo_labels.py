"""Read YOLO label files: one text file per image, one object per line.

A line is ``class x y width height`` (center and size of the box), or ``class x y x y x y …`` (a
polygon of three or more points), as fractions of the size of the upright image (after EXIF
rotation). Classes are numbered from 0.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.formats.tables import ReadObject
from datasets.formats.text_files import filled_lines
from util.errors import UserError
from util.text import in_short

_LARGEST_FRACTION = 1.5  # larger numbers are probably pixels
_CLASS = re.compile(r"\d+(\.0*)?")
_BOX_NUMBERS = 4


class LabelFile(NamedTuple):
    """Content of a label file.

    Attributes:
        objects: objects whose box has a positive area.
        empty: line and class of the objects whose box has zero area, for messages.
    """

    objects: list[ReadObject]
    empty: list[str]


def read_label_file(
    path: Path, size_wh: tuple[int, int], names: Sequence[str], keypoints: bool
) -> LabelFile:
    """Read a label file.

    Args:
        path: path of the file.
        size_wh: width and height of the upright image in pixels.
        names: class names.
        keypoints: whether numbers after the box are keypoints, which are ignored, not a polygon.

    Raises:
        UserError: if a line is invalid.
    """
    objects, empty = [], []
    for number, line in filled_lines(path):
        try:
            one = _read_line(line, size_wh, names, keypoints)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        if min(one.box_xywh[2:]) > 0:
            objects.append(one)
        else:
            empty.append(f"line {number} ({one.described()})")
    return LabelFile(objects, empty)


def _read_line(
    line: str, size_wh: tuple[int, int], names: Sequence[str], keypoints: bool
) -> ReadObject:
    """Read an object.

    Raises:
        ValueError: if the line is invalid; the message describes it.
    """
    first, *words = line.split()
    numbers = [_fraction(word) for word in words]
    if not _CLASS.fullmatch(first):
        raise ValueError(f"the class must be a number from 0, not {in_short(first)}")
    index = int(float(first))
    if index >= len(names):
        raise ValueError(f"class {index}, but there are only {len(names)} class names (from 0)")
    if len(numbers) == _BOX_NUMBERS or (keypoints and len(numbers) > _BOX_NUMBERS):
        return ReadObject(names[index], _box(numbers, size_wh))
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        polygon = [value * size_wh[i % 2] for i, value in enumerate(numbers)]
        return ReadObject(names[index], _box_around(polygon), [polygon])
    raise ValueError(
        f"{len(numbers)} numbers after the class: a box has 4, a polygon 6 or more in pairs"
    )


def _fraction(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not abs(value) <= _LARGEST_FRACTION:
        raise ValueError(f"{in_short(word)} is not a fraction of the image from 0 to 1")
    return value


def _box(numbers: Sequence[float], size_wh: tuple[int, int]) -> tuple[float, float, float, float]:
    x, y, width, height = numbers[:_BOX_NUMBERS]
    image_width, image_height = size_wh
    return (
        (x - width / 2) * image_width,
        (y - height / 2) * image_height,
        width * image_width,
        height * image_height,
    )


def _box_around(polygon: Sequence[float]) -> tuple[float, float, float, float]:
    xs, ys = polygon[::2], polygon[1::2]
    return (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
