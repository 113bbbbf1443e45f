"""Read the images listed in an annotation file."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets.annotations.coco_file import UPRIGHT, Row, category_names, text_ids
from datasets.annotations.compact.images import DataSummary, TablesByImage
from datasets.annotations.table_checks import size_wh
from datasets.loading.images import SizeMatch, read_listed_image
from util.errors import UserError


def read_row_image(img_folder: str | Path, row: Row) -> Image.Image:
    """Read the image of a row for drawing, without checking its size.

    Args:
        img_folder: folder that the file name is relative to.

    Returns:
        the image in mode RGB, in the orientation of its annotations.

    Raises:
        UserError: if the file cannot be read.
    """
    path = os.path.join(img_folder, row["file_name"])
    return read_listed_image(path, size_wh(row), upright=bool(row.get(UPRIGHT)))[0]


class ListedImages:
    """Base class of datasets that list their images in an annotation file.

    Attributes:
        ann_file: path of the file.
        ids: image ids, sorted.
        categories: class names by category id.
        text_ids: original string id by category id; empty if the file has integer ids.
    """

    def _list(
        self, tables: TablesByImage, img_folder: str | Path, ann_file: str | Path, skip_checks: bool
    ) -> None:
        """Take the images and classes of a file that has been checked.

        Args:
            img_folder: folder that the image file names are relative to.
            ann_file: path of the file, for messages.
            skip_checks: accept images whose size differs from the file, as they are stored.
        """
        self._tables, self._img_folder, self._skip_checks = tables, img_folder, skip_checks
        self._notice: str | None = None
        self.ann_file = ann_file
        self.ids: list[int] = tables.ids
        self.categories = category_names(tables.categories)
        self.text_ids = text_ids(tables.categories)

    @property
    def sizes_wh(self) -> np.ndarray:
        """Width and height of each image in the file, (N, 2) in pixels; 0: missing."""
        return self._tables.sizes_wh

    @property
    def file_names(self) -> list[str]:
        """File names of all images."""
        return self._tables.file_names

    def summary(self) -> DataSummary:
        """Number of images and objects, and a hash; see `TablesByImage.summary`."""
        return self._tables.summary()

    def _load_image(self, id: int) -> Image.Image:
        """Read an image as 8-bit RGB, and check its size."""
        row = self._tables.image(id)
        path, listed_wh = os.path.join(self._img_folder, row["file_name"]), size_wh(row)
        name = f"image id {id}: image file {path}"
        image, match = read_listed_image(path, listed_wh, name, bool(row.get(UPRIGHT)))
        if match is SizeMatch.TURNED:
            self._notice = (
                f"EXIF orientation applied: {name} is rotated, because {self.ann_file} lists the "
                "rotated size (all such images are rotated)"
            )
        elif match is SizeMatch.AMBIGUOUS:
            self._notice = (
                f"EXIF orientation not applied: {name} has one, but its size does not show whether "
                "annotations follow it (stored pixels are used for all such images); if they were "
                "made on upright images, save the images upright"
            )
        elif match is SizeMatch.DIFFERENT and not self._skip_checks:
            assert listed_wh is not None
            raise UserError(
                f"{name} is {image.height} x {image.width} pixels (height x width), "
                f"but {listed_wh[1]} x {listed_wh[0]} in {self.ann_file}; fix the image or the "
                "annotation file, or use images as they are stored with --skip_checks"
            )
        return image

    def pop_notice(self) -> str | None:
        """Message about the EXIF orientation of an image since the last call, or None.

        The words before the first colon are the topic of the message.
        """
        notice, self._notice = self._notice, None
        return notice

    def __getstate__(self) -> dict[str, Any]:
        """Drop ``coco`` when pickling; spawned DataLoader workers rebuild it if they use it."""
        return {name: value for name, value in self.__dict__.items() if name != "coco"}
