"""Safe opening of untrusted image files.

A file of a few kilobytes can declare any number of pixels. The header of an image above the limits
is enough to reject it, before memory is allocated. Formats that run another program, pipes and
other special files are rejected too.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from util.errors import UserError

MAX_SIDE = 65_535  # pixels; maximum of the JPEG format
MAX_PIXELS = 178_956_970  # width times height; also Pillow's limit

_RUN_A_PROGRAM = {"EPS"}  # Pillow starts Ghostscript to read it
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_SNIFFED_BYTES = 24


class ImageTooLargeError(UserError):
    """An image exceeds `MAX_SIDE` or `MAX_PIXELS`."""


@contextmanager
def open_image(file: str | Path | BinaryIO, name: str) -> Iterator[Image.Image]:
    """Open an image; the ``with`` block must read the pixels.

    Args:
        file: path or binary file.
        name: name of the file in error messages.

    Raises:
        ImageTooLargeError: if a side exceeds `MAX_SIDE`, or the image has more than `MAX_PIXELS`.
        UserError: if the file is missing, truncated, broken or not an image; it replaces any other
            exception of the block.
    """
    try:
        if isinstance(file, str | Path):
            _check_regular(file)
        with Image.open(file) as image:
            _check_header(image, name)
            yield image
    except FileNotFoundError:
        raise UserError(f"{name} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"{name} is a folder; {_name_an_image_in(file)}") from None
    except ImageTooLargeError:
        raise
    except Image.DecompressionBombError as error:
        reason = str(error).rstrip(".")
        raise ImageTooLargeError(f"{name} is too large: {reason}; scale it down") from error
    except Exception as error:  # broken files can raise any exception in Pillow's decoders
        reason = _reason(file, error)
        raise UserError(
            f"{name} cannot be read: {reason}; replace it with a readable copy"
        ) from error


def _check_regular(path: str | Path) -> None:
    """Raise if the path is not a regular file: reading a pipe could block forever."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError
    if not stat.S_ISREG(mode):
        raise ValueError("it is not a regular file")


def _check_header(image: Image.Image, name: str) -> None:
    width, height = image.size
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageTooLargeError(
            f"{name} is too large: {width} x {height} pixels (width x height), the limits are "
            f"{MAX_SIDE} per side and {MAX_PIXELS} in all; scale it down"
        )
    if image.format in _RUN_A_PROGRAM:
        raise ValueError(f"{image.format} is a program, not an image; save it as PNG")


def _name_an_image_in(folder: str | Path | BinaryIO) -> str:
    """Advice if a folder is given instead of an image: suggests an image file in it."""
    known, names = Image.registered_extensions(), []
    if isinstance(folder, str | Path) and os.access(folder, os.R_OK):
        names = [name for name in os.listdir(folder) if Path(name).suffix.lower() in known]
    return "give an image file" + (f" in it, such as {min(names)}" if names else "")


def _reason(file: str | Path | BinaryIO, error: Exception) -> str:
    """Why a file cannot be read."""
    if isinstance(error, UnidentifiedImageError):
        return _describe_unknown_format(file)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _describe_unknown_format(file: str | Path | BinaryIO) -> str:
    """Describe a file that is not an image by its first bytes."""
    unknown = "it is in no known image format"
    if not isinstance(file, str | Path):
        return unknown
    with open(file, "rb") as opened:
        first_bytes = opened.read(_SNIFFED_BYTES)
    if first_bytes[4:8] == b"ftyp" and first_bytes[8:12] in _HEIC_BRANDS:
        return "it is a HEIC photo, which Pillow does not read, unlike JPEG"
    return f"{unknown} and begins with {first_bytes!r}" if first_bytes else "it is empty"
