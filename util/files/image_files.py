"""Opening image files that nobody vouches for.

A file of a few kilobytes can claim to hold any number of pixels. What is larger than the limits
here is refused by its header, before memory is taken for it; so is what reading would run a program
for, and what is no file at all and would be waited for.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from util.errors import UserError

MAX_SIDE = 65_535  # pixels; the largest that JPEG can store
MAX_PIXELS = 178_956_970  # width times height; also where Pillow by itself refuses to go on

_RUN_A_PROGRAM = {"EPS"}  # formats that Pillow hands to another program, here Ghostscript
_SNIFFED_BYTES = 24


class ImageTooLargeError(UserError):
    """An image has more pixels than are ever read."""


@contextmanager
def open_image(file: str | Path | BinaryIO, name: str) -> Iterator[Image.Image]:
    """Open an image for the time of a ``with`` block, in which its pixels are to be read.

    Args:
        file: a path, or a binary file.
        name: what messages call it.

    Raises:
        ImageTooLargeError: it has a side above `MAX_SIDE` or more than `MAX_PIXELS` pixels.
        UserError: the file is missing, truncated, broken or no image; also for any error that is
            raised in the block.
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
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        reason = _reason(file, error)
        raise UserError(
            f"{name} cannot be read: {reason}; replace it with a readable copy"
        ) from error


def _check_regular(path: str | Path) -> None:
    """Raise if there is something else than a file: reading a pipe would wait forever."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError
    if not stat.S_ISREG(mode):
        raise ValueError("it is not a regular file")


def _check_header(image: Image.Image, name: str) -> None:
    width, height = image.size
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageTooLargeError(
            f"{name} is too large: {width} x {height} pixels (width x height), where sides up to "
            f"{MAX_SIDE} and {MAX_PIXELS} pixels are read; scale it down"
        )
    if image.format in _RUN_A_PROGRAM:
        raise ValueError(f"{image.format} is a program, not a picture; save it as PNG")


def _name_an_image_in(folder: str | Path | BinaryIO) -> str:
    """Which file to give in place of a folder."""
    known, names = Image.registered_extensions(), []
    if isinstance(folder, str | Path) and os.access(folder, os.R_OK):
        names = [one for one in os.listdir(folder) if Path(one).suffix.lower() in known]
    return "give an image file" + (f" in it, such as {min(names)}" if names else "")


def _reason(file: str | Path | BinaryIO, error: Exception) -> str:
    """Why a file cannot be read, in words."""
    if isinstance(error, UnidentifiedImageError):
        return _instead_of_an_image(file)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _instead_of_an_image(file: str | Path | BinaryIO) -> str:
    """What a file is that holds no image, as far as its beginning shows."""
    unknown = "it is in no known image format"
    if not isinstance(file, str | Path):
        return unknown
    with open(file, "rb") as opened:
        beginning = opened.read(_SNIFFED_BYTES)
    return f"{unknown} and begins with {beginning!r}" if beginning else "it is empty"
