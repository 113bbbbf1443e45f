"""Tables in COCO's format in memory, which the readers of all annotation formats return."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pycocotools import mask as coco_mask

from datasets.annotations.coco_file import ORIGIN, TEXT_ID, UPRIGHT, text_ids
from datasets.annotations.segmentations import encode_segmentation, usable_polygons
from datasets.formats.held_out import ImageSplit
from util.errors import UserError
from util.text import counted, first_of

_CLASSES_SHOWN = 8

logger = logging.getLogger(__name__)


class Place(NamedTuple):
    """A position in a file, for messages.

    Attributes:
        file: name or path of the file.
        detail: position in the file, such as "line 3"; may be empty.
    """

    file: str
    detail: str = ""

    def __str__(self) -> str:
        """File, and position in it."""
        return f"{self.file}, {self.detail}" if self.detail else self.file


class Note(NamedTuple):
    """Entries that a reader has ignored or changed.

    Attributes:
        text: entries and action, in the plural: "boxes with zero area ignored".
        places: position of each entry.
    """

    text: str
    places: Sequence[Place]

    def __str__(self) -> str:
        """Number of entries, text, and the first few positions."""
        examples = first_of(self.places)
        return f"{counted(len(self.places), self.text)}: {examples}"


@dataclass(frozen=True)
class Tables:
    """Annotations of a split.

    Attributes:
        data: ``images``, ``annotations`` and ``categories``, as in a COCO file (see
            `datasets.annotations.coco_file`), not checked. In Pascal VOC data every object has the
            field ``difficult``, 0 or 1.
        img_folder: folder that image file names are relative to.
        source: file or folder of the annotations, for messages.
        format: name of the format.
        notes: entries that the reader has ignored or changed; probably errors in the data.
        remarks: sentences about entries that were ignored or changed because of flags.
        part: note on the subset of ``source`` that was read; empty: all images.
        split: training and validation images, if validation images were held out; else None.
        errors: images that stop a run before training, unless ``--skip_checks`` is given.
    """

    data: dict[str, Any]
    img_folder: Path
    source: Path
    format: str
    notes: list[Note] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    part: str = ""
    split: ImageSplit | None = None
    errors: list[Note] = field(default_factory=list)

    @property
    def origin(self) -> str:
        """Format and path, and which images were read."""
        return f"{self.format}, {self.source}{self.part}"

    def report(self, image_set: str, summary: bool = True) -> None:
        """Print a summary and the remarks; log the notes as warnings.

        Args:
            image_set: "train" or "val".
            summary: False: print only the remarks.
        """
        if summary:
            print(self.summary(image_set))
        for remark in self.remarks:
            print(remark)
        for note in self.notes:
            logger.warning("%s: %s", self.source, note)

    def summary(self, image_set: str) -> str:
        """Number of images, objects and classes in one line.

        Args:
            image_set: "train" or "val".
        """
        names = [str(row.get("name", row.get("id"))) for row in self.data["categories"]]
        some = first_of(names, _CLASSES_SHOWN)
        what = {"train": "Training", "val": "Validation"}[image_set]
        objects = [row for row in self.data["annotations"] if not row.get("iscrowd")]
        with_objects = {str(row.get("image_id")) for row in objects}
        num_images = len(self.data["images"])
        empty = num_images - len(with_objects)
        return (
            f"{what} data: {self.origin}: "
            f"{counted(num_images, 'images')}{f' ({empty} without objects)' if empty else ''}, "
            f"{counted(len(objects), 'objects')}, {counted(len(names), 'classes')} ({some})"
        )


class ReadObject(NamedTuple):
    """An object as read from a file.

    Attributes:
        name: name of its class.
        box_xywh: box in pixels.
        polygons: outline, x, y, x, y, … in pixels each; empty: only a box is known.
        difficult: as in Pascal VOC; None in other formats.
    """

    name: str
    box_xywh: tuple[float, float, float, float]
    polygons: Sequence[list[float]] = ()
    difficult: bool | None = None

    def described(self) -> str:
        """Class name; notes a negative size (swapped corners)."""
        return f"{self.name}, negative size" if min(self.box_xywh[2:]) < 0 else self.name


class ReadImage(NamedTuple):
    """An image with its objects, as read from a file.

    Attributes:
        path: path of the image.
        size_wh: width and height in pixels, in the orientation of the annotations; None: unknown.
        objects: objects in the order of the file.
        origin: annotation file, for messages.
        upright: whether the annotations refer to the upright image, which differs from the stored
            one.
    """

    path: Path
    size_wh: tuple[int, int] | None
    objects: Sequence[ReadObject]
    origin: str
    upright: bool = False


def as_tables(
    images: Iterable[ReadImage], class_ids: Mapping[str, int], img_folder: Path
) -> dict[str, Any]:
    """Build COCO tables. Images are numbered from 1 in the order of their paths.

    Args:
        img_folder: folder that contains all images, from `common_folder`.
    """
    rows: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    in_order = sorted(images, key=lambda image: str(image.path))
    for image_id, image in enumerate(in_order, start=1):
        file_name = image.path.relative_to(img_folder).as_posix()
        row: dict[str, Any] = {"id": image_id, "file_name": file_name, ORIGIN: image.origin}
        if image.size_wh is not None:
            row["width"], row["height"] = image.size_wh
        if image.upright:
            row[UPRIGHT] = True
        rows.append(row)
        for one in image.objects:
            annotation = _annotation_of(one, class_ids[one.name], image.size_wh)
            number = len(annotations) + 1
            annotations.append(
                {"id": number, "image_id": image_id, **annotation, ORIGIN: image.origin}
            )
    pairs = sorted((number, name) for name, number in class_ids.items())
    categories = [{"id": number, "name": name} for number, name in pairs]
    return {"images": rows, "annotations": annotations, "categories": categories}


def _annotation_of(
    one: ReadObject, category_id: int, size_wh: tuple[int, int] | None
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "category_id": category_id,
        "bbox": list(one.box_xywh),
        "area": _area_of(one, size_wh),
        "iscrowd": 0,
    }
    if one.polygons:
        row["segmentation"] = list(one.polygons)
    if one.difficult is not None:
        row["difficult"] = int(one.difficult)
    return row


def _area_of(one: ReadObject, size_wh: tuple[int, int] | None) -> float:
    """Area in square pixels: of the mask, or of the box without an outline or mask.

    COCO has the area inside the outlines. That of the mask is also right for outlines that
    intersect themselves or join several parts, as in files converted from COCO.
    """
    _, _, box_width, box_height = one.box_xywh
    area = 0.0
    if size_wh is not None and (polygons := usable_polygons(list(one.polygons))):
        width, height = size_wh
        area = float(coco_mask.area(encode_segmentation(polygons, height, width)))
    return area or box_width * box_height


def common_folder(paths: Iterable[Path]) -> Path:
    """The innermost folder that contains all files.

    Args:
        paths: at least one absolute path.
    """
    return Path(os.path.commonpath({str(path.parent) for path in paths}))


def raise_problems(problems: Sequence[str], fix: str) -> None:
    """Raise one error with the first few problems, if there are any.

    Args:
        problems: file, line and what is wrong.

    Raises:
        UserError: there are problems.
    """
    if problems:
        few = first_of(problems)
        raise UserError(f"{few}; {fix}")


def as_coco_file(data: Mapping[str, Any]) -> dict[str, Any]:
    """Copy of the tables for a COCO file: the user's category ids, no keys of this project."""
    own_ids = text_ids(data["categories"])
    annotations = [_without(row, ORIGIN) for row in data["annotations"]]
    for row in annotations if own_ids else []:
        row["category_id"] = own_ids.get(row["category_id"], row["category_id"])
    return {
        **data,
        "images": [_without(row, ORIGIN) for row in data["images"]],
        "annotations": annotations,
        "categories": [
            {**_without(row, TEXT_ID), "id": row.get(TEXT_ID, row.get("id"))}
            for row in data["categories"]
        ],
    }


def _without(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}
