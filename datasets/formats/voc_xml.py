"""Read Pascal VOC annotation files: one XML file per image.

Pascal VOC counts pixels from 1, and a box includes its last pixel: ``xmin`` 1 and ``xmax`` 10 are
the first ten columns, the interval from 0 to 10. Therefore 1 is subtracted from ``xmin`` and
``ymin`` only.
"""

import math
from pathlib import Path, PureWindowsPath
from typing import NamedTuple
from xml.etree import ElementTree

from datasets.annotations.coco_file import LARGEST_COORDINATE
from datasets.formats.tables import ReadObject
from util.errors import UserError
from util.text import shortened

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_NOT_DIFFICULT = ("", "0", "0.0", "false", "unspecified")


class VocFile(NamedTuple):
    """Content of an annotation file.

    Attributes:
        path: path of the file.
        image_name: file name of the image in the file, without folders; "" if missing.
        size_wh: width and height of the image in the file; None if missing, 0 or not a number.
        objects: objects whose box has an area.
        empty: number and class of the objects whose box has no area.
    """

    path: Path
    image_name: str
    size_wh: tuple[int, int] | None
    objects: list[ReadObject]
    empty: list[str]


def read_voc_file(path: Path) -> VocFile:
    """Read an annotation file.

    Raises:
        UserError: the file cannot be read, is not XML, or an object has no name or box.
    """
    root = _parse(path)
    objects, empty = [], []
    for number, element in enumerate(root.findall("object"), start=1):
        try:
            one = _read_object(element)
        except ValueError as error:
            raise UserError(f"{path}: object {number} {error}") from None
        if min(one.box_xywh[2:]) > 0:
            objects.append(one)
        else:
            empty.append(f"object {number} ({one.described()})")
    name = PureWindowsPath(_text_of(root.find("filename"))).name  # splits at / and \
    return VocFile(path, name, _size_wh(root), objects, empty)


def _parse(path: Path) -> ElementTree.Element:
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        line, column = error.position
        reason = str(error).partition(":")[0]
        raise UserError(f"{path}, line {line}, column {column}: not XML: {reason}") from None
    except (ValueError, LookupError) as error:  # an unknown encoding
        raise UserError(f"{path}: {error}; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    if root.tag != "annotation":
        raise UserError(f"{path}: the root element is <{root.tag}>, expected <annotation>")
    return root


def _text_of(element: ElementTree.Element | None) -> str:
    """Text of an element without white space at both ends; "" if it is missing."""
    return "" if element is None else (element.text or "").strip()


def _size_wh(root: ElementTree.Element) -> tuple[int, int] | None:
    try:
        width, height = (
            int(float(_text_of(root.find(f"size/{side}")))) for side in ("width", "height")
        )
    except (ValueError, OverflowError):
        return None
    return (width, height) if min(width, height) > 0 else None


def _read_object(element: ElementTree.Element) -> ReadObject:
    """Read an object."""
    fields = {child.tag: child for child in reversed(element)}  # the first of each tag
    name = _text_of(fields.get("name"))
    if not name:
        raise ValueError("has no name")
    if "bndbox" not in fields:
        other = " (a rotated box is not supported)" if "robndbox" in fields else ""
        raise ValueError(f"({name}) has no bndbox{other}")
    corners = {child.tag: child for child in fields["bndbox"]}
    left, top, right, bottom = (_corner(corners.get(tag), tag, name) for tag in _CORNERS)
    # Pixels count from 1, both ends included. xmin = xmax or ymin = ymax counts as zero area.
    width = right - left + (right > left)
    height = bottom - top + (bottom > top)
    difficult = _text_of(fields.get("difficult")).lower() not in _NOT_DIFFICULT
    return ReadObject(name, (left - 1, top - 1, width, height), difficult=difficult)


def _corner(element: ElementTree.Element | None, tag: str, name: str) -> float:
    text = _text_of(element)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST_COORDINATE:
        raise ValueError(f"({name}) has an invalid {tag}: {shortened(text)}")
    return value
