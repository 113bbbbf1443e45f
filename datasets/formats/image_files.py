"""Find image files, and read their sizes from their headers."""

import os
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from datasets.loading.images import AS_STORED, QUARTER_TURNS, exif_orientation
from util.errors import UserError
from util.files.image_files import open_image

IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2", ".png", ".apng", ".bmp", ".dib"),
        *(".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".avif"),
    }
)
_SIZES_KEPT = 2**18  # images


class HeaderSize(NamedTuple):
    """Size of an image file in pixels.

    Attributes:
        stored_wh: width and height as read without the EXIF rotation.
        upright_wh: width and height after the EXIF rotation.
        is_rotated: whether the upright image differs from the stored one.
    """

    stored_wh: tuple[int, int]
    upright_wh: tuple[int, int]
    is_rotated: bool = False


def is_image(path: Path) -> bool:
    """Whether a file has an image suffix; macOS's ``._`` files do not count."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("._")


def images_in(folder: Path, recursive: bool = False) -> list[Path]:
    """List the images of a folder, in the order of their names.

    Args:
        folder: an existing folder.
        recursive: whether subfolders are listed too.
    """
    return [path for path in files_in(folder, recursive) if is_image(path)]


def files_in(folder: Path, recursive: bool = False) -> list[Path]:
    """List the files of a folder, in the order of their names, except those in hidden folders.

    Raises:
        UserError: if there is no permission to list a folder.
    """
    found: list[Path] = []
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if not entry.is_dir():
                    found.append(Path(entry.path))
                elif recursive and not entry.name.startswith("."):
                    found += files_in(Path(entry.path), recursive)
    except PermissionError as error:
        raise UserError(
            f"folder {folder} cannot be listed ({error.strerror}); check its permissions"
        ) from None
    return found


def comparable(name: str) -> str:
    """Key that is equal for names that differ only in case or in the encoding of accents."""
    return unicodedata.normalize("NFC", name).casefold()


def header_size(path: Path) -> HeaderSize | None:
    """Read the size of an image from its header; None if the file cannot be read.

    The result is kept in memory until the file changes.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return _read_size(str(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=_SIZES_KEPT)
def _read_size(path: str, _mtime_ns: int, _num_bytes: int) -> HeaderSize | None:
    try:
        with open_image(path, f"image file {path}") as image:
            orientation = exif_orientation(image)
            is_turned = orientation in QUARTER_TURNS
            if isinstance(image, TiffImageFile):  # Pillow reads it upright
                width, height = (image.tag_v2[tag] for tag in (IMAGEWIDTH, IMAGELENGTH))
                upright = (height, width) if is_turned else (width, height)
                return HeaderSize(upright, upright)
            upright = image.size[::-1] if is_turned else image.size
            return HeaderSize(image.size, upright, orientation != AS_STORED)
    except UserError:  # reported when the image is read
        return None
