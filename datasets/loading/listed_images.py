"""Read the images listed in an annotation file."""

import os
from pathlib import Path

from PIL import Image

from datasets.annotations.coco_file import UPRIGHT, Row
from datasets.annotations.table_checks import size_wh
from datasets.loading.images import SizeMatch, read_listed_image
from util.errors import UserError


def read_row_image(img_folder: str | Path, row: Row) -> Image.Image:
    """Read the image of a row for drawing, without checking its size.

    Args:
        img_folder: folder that the file name is relative to.
        row: row of the table "images".

    Returns:
        the image in mode RGB, in the orientation of its annotations.

    Raises:
        UserError: if the file cannot be read.
    """
    path = os.path.join(img_folder, row["file_name"])
    return read_listed_image(path, size_wh(row), upright=bool(row.get(UPRIGHT)))[0]


class ListedImages:
    """Reads the images of an annotation file, and checks their sizes.

    Args:
        img_folder: folder that the file names are relative to.
        ann_file: path of the annotation file, for messages.
        skip_checks: accept images whose size differs from the annotation file, as they are stored.
    """

    def __init__(self, img_folder: str | Path, ann_file: str | Path, skip_checks: bool) -> None:
        self._img_folder = img_folder
        self._ann_file = ann_file
        self._skip_checks = skip_checks
        self._notice: str | None = None

    def read(self, row: Row) -> Image.Image:
        """Read the image of a row of the table "images" as 8-bit RGB.

        Raises:
            UserError: if the file cannot be read, or its size differs from the row.
        """
        path, listed_wh = os.path.join(self._img_folder, row["file_name"]), size_wh(row)
        name = f"image id {row['id']}: image file {path}"
        image, match = read_listed_image(path, listed_wh, name, bool(row.get(UPRIGHT)))
        if match is SizeMatch.TURNED:
            self._notice = (
                f"EXIF orientation applied: {name} is rotated, because {self._ann_file} lists the "
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
                f"but {listed_wh[1]} x {listed_wh[0]} in {self._ann_file}; fix the image or the "
                "annotation file, or use images as they are stored with --skip_checks"
            )
        return image

    def pop_notice(self) -> str | None:
        """Message about the EXIF orientation of an image since the last call, or None.

        The words before the first colon are the topic of the message.
        """
        notice, self._notice = self._notice, None
        return notice
