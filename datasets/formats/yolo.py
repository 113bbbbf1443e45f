"""Read YOLO data: one label file per image, and class names in ``data.yaml`` or ``classes.txt``.

A line of a label file is an object: ``class x y width height`` (center and size of the box), or
``class x y x y x y …`` (a polygon of three or more points), as fractions of the size of the upright
image (after EXIF rotation). Classes are numbered from 0.
"""

import math
import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from datasets.formats.image_files import files_in, header_size, images_in
from datasets.formats.tables import (
    Note,
    Place,
    ReadImage,
    ReadObject,
    Tables,
    as_tables,
    common_folder,
    raise_problems,
)
from datasets.formats.text_files import filled_lines
from datasets.formats.yolo_folders import CLASS_FILES, YoloFolders, label_files
from util.errors import UserError
from util.text import shortened

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


@dataclass(frozen=True)
class YoloData:
    """YOLO data.

    Attributes:
        folders: locations, from `datasets.formats.yolo_folders.find_yolo`.
    """

    folders: YoloFolders
    format = "YOLO"

    @property
    def splits(self) -> Mapping[str, Sequence[Path]]:
        """Images of each split."""
        return self.folders.splits

    def read(self, split: str, _known_ids: Mapping[str, int]) -> Tables:
        """Read a split. Category ids are the class numbers of the labels plus 1.

        Args:
            split: key of ``splits``.

        Raises:
            UserError: if files are missing or invalid.
        """
        names, images = self.folders.names, self.folders.splits[split]
        class_ids = {name: number for number, name in enumerate(names, start=1)}
        read, notes = self._read_labels(images)
        img_folder = common_folder(images)
        data = as_tables(read, class_ids, img_folder)
        source, part = self.folders.source, f" ({split})" if len(self.splits) > 1 else ""
        missing = self.folders.missing
        remarks = [f"{source} lists paths that do not exist: {missing}"] if missing else []
        own = os.path.abspath(source if source.is_dir() else source.parent)
        if not Path(os.path.abspath(img_folder)).is_relative_to(own):
            remarks.append(f"The images of {source}{part} are read from {img_folder}")
        return Tables(data, img_folder, source, self.format, notes, remarks, part)

    def _read_labels(self, images: Sequence[Path]) -> tuple[list[ReadImage], list[Note]]:
        """Read the images of a split with their objects."""
        labels_of = label_files(images)
        existing = _text_files({labels.parent for labels in labels_of.values()})
        _refuse_no_labels(labels_of, existing)
        read: list[ReadImage] = []
        problems: list[str] = []
        empty: list[Place] = []
        unreadable: list[Place] = []
        for image, labels in labels_of.items():
            if (header := header_size(image)) is None:
                unreadable.append(Place(str(image)))
                continue
            file = LabelFile([], [])
            try:
                if labels in existing:
                    names, keypoints = self.folders.names, self.folders.keypoints
                    file = read_label_file(labels, header.upright_wh, names, keypoints)
            except UserError as error:
                problems.append(str(error))
                continue
            empty += [Place(labels.name, box) for box in file.empty]
            size_wh, upright = header.upright_wh, header.is_rotated
            read.append(ReadImage(image, size_wh, file.objects, labels.name, upright))
        raise_problems(problems, "correct the lines")
        notes = [
            Note("boxes with zero area ignored", empty),
            Note("unreadable images ignored", unreadable),
            Note("files without an image ignored", _without_image(images, existing)),
        ]
        return read, [note for note in notes if note.places]


def _refuse_no_labels(labels_of: Mapping[Path, Path], existing: Container[Path]) -> None:
    """Check that at least one image has a label file."""
    if not any(labels in existing for labels in labels_of.values()):
        image, labels = next(iter(labels_of.items()))
        raise UserError(
            f"none of the images has a label file: for {image} it is expected at {labels}; put "
            "the label files there"
        )


def _without_image(images: Sequence[Path], label_paths: set[Path]) -> list[Place]:
    """Label files in these folders that belong to no image of any split."""
    folders = {image.parent for image in images}
    known = label_files(image for folder in folders for image in images_in(folder))
    return [Place(str(path)) for path in sorted(label_paths.difference(known.values()))]


def _text_files(folders: Iterable[Path]) -> set[Path]:
    """Text files of folders, except lists of class names."""
    files = (path for folder in folders if folder.is_dir() for path in files_in(folder))
    texts = (path for path in files if path.suffix.lower() == ".txt")
    return {path for path in texts if path.name not in CLASS_FILES}


def read_label_file(
    path: Path, size_wh: tuple[int, int], names: Sequence[str], keypoints: bool
) -> LabelFile:
    """Read a label file.

    Args:
        size_wh: width and height of the upright image in pixels.
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
    """Read an object."""
    first, *words = line.split()
    numbers = [_fraction(word) for word in words]
    if not _CLASS.fullmatch(first):
        raise ValueError(f"the class must be a number from 0, not {shortened(first)}")
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
        raise ValueError(f"{shortened(word)} is not a fraction of the image from 0 to 1")
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
