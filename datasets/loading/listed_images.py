"""The images that an annotation file lists, read in the orientation of their annotations."""

import os
from pathlib import Path

from PIL import Image

from datasets.annotations.coco_file import Row
from datasets.annotations.table_checks import size_wh
from datasets.loading.images import SizeMatch, read_listed_image
from util.errors import UserError


def read_row_image(img_folder: str | Path, row: Row) -> Image.Image:
    """Read the image of a row for drawing, whether or not its size is as the row says.

    Args:
        img_folder: folder that the file name is relative to.
        row: of the table "images".

    Returns:
        The image in mode RGB, in the orientation of its annotations.

    Raises:
        UserError: the file cannot be read.
    """
    return read_listed_image(os.path.join(img_folder, row["file_name"]), size_wh(row))[0]


class ListedImages:
    """Reads the images of an annotation file, and compares their sizes with the file.

    Args:
        img_folder: folder that the file names are relative to.
        ann_file: path of the annotation file, for messages.
        skip_checks: take an image of another size as it is stored, in place of an error.
    """

    def __init__(self, img_folder: str | Path, ann_file: str | Path, skip_checks: bool) -> None:
        self._img_folder = img_folder
        self._ann_file = ann_file
        self._skip_checks = skip_checks
        self._turned: str | None = None

    def read(self, row: Row) -> Image.Image:
        """Read the image of a row of the table "images" as 8-bit RGB.

        Raises:
            UserError: the file cannot be read, or its size is another than the row says.
        """
        path, listed_wh = os.path.join(self._img_folder, row["file_name"]), size_wh(row)
        name = f"image id {row['id']}: image file {path}"
        image, match = read_listed_image(path, listed_wh, name)
        if match is SizeMatch.TURNED:
            self._turned = name
        elif match is SizeMatch.DIFFERENT and not self._skip_checks:
            assert listed_wh is not None
            raise UserError(
                f"{name} is {image.height} x {image.width} pixels (height x width), "
                f"but {listed_wh[1]} x {listed_wh[0]} in {self._ann_file}; fix the image or the "
                "annotation file, or take images as they are stored with --skip_checks"
            )
        return image

    def take_note(self) -> str | None:
        """A sentence about the image that was turned upright since the last call, if any was."""
        turned, self._turned = self._turned, None
        if turned is None:
            return None
        return (
            f"{turned} is stored sideways and turned upright by its EXIF orientation: "
            f"{self._ann_file} has the upright size; so is every image like it"
        )
