"""Read image files of any Pillow mode as 8-bit RGB.

`read_listed_image` returns an image in the orientation of its annotations (recognized by width and
height), `read_upright` applies the EXIF orientation, `read_image` returns the stored pixels. Color
profiles are ignored, and alpha channels are dropped, not blended.
"""

from enum import Enum
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms

from util.files.image_files import open_image

# Modes that Pillow converts to RGB only (or only without a warning) through another mode.
_MODE_BETWEEN = {"P": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "La": "LA"}

AS_STORED = 1  # EXIF orientation of images whose pixels are stored upright
QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
# Transposition that makes an image upright, by EXIF orientation.
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Gray images are scaled in chunks, because a float64 copy of a large image takes much memory.
_VALUES_AT_ONCE = 2**20


def read_image(path: str | Path, name: str | None = None) -> Image.Image:
    """Read an image file as 8-bit RGB.

    Args:
        path: any file that Pillow reads; of an animation, the first frame is read.
        name: description of the file in messages; default: its path.

    Returns:
        the image in mode RGB (see `to_rgb`), in stored orientation.

    Raises:
        UserError: if the file is missing, truncated, corrupt or not an image.
        ImageTooLargeError: if the image exceeds the limits of `util.files.image_files`; also a
            UserError.
    """
    with open_image(path, name or f"image file {path}") as image:
        return to_rgb(image)


def read_upright(path: str | Path, name: str | None = None) -> Image.Image:
    """Read an image as 8-bit RGB and apply its EXIF orientation; otherwise like `read_image`."""
    with open_image(path, name or f"image file {path}") as image:
        return turn_upright(to_rgb(image), exif_orientation(image))


class SizeMatch(Enum):
    """Comparison of an image's stored size with its size in the annotation file."""

    EQUAL = "equal, or the annotation file has no size"
    TURNED = "equal after the quarter turn of the EXIF orientation"
    DIFFERENT = "different"
    AMBIGUOUS = "equal, but boxes may have been drawn on the image in its EXIF orientation"


def read_listed_image(
    path: str | Path,
    size_wh: tuple[int, int] | None,
    name: str | None = None,
    upright: bool = False,
) -> tuple[Image.Image, SizeMatch]:
    """Read an image file as 8-bit RGB, in the orientation of its annotations.

    The EXIF orientation is ignored, as in COCO, unless it exchanges width and height (5 to 8) and
    the annotation file lists the exchanged size.

    Args:
        path: see `read_image`.
        size_wh: width and height in the annotation file; None if missing.
        name: see `read_image`.
        upright: whether the annotations are known to refer to the upright image.

    Returns:
        the image, and the comparison of its stored size with ``size_wh``; if ``upright``, of its
        upright size.

    Raises:
        UserError: see `read_image`.
    """
    with open_image(path, name or f"image file {path}") as image:
        rgb = to_rgb(image)
        orientation = exif_orientation(image)
    if upright:
        rgb = turn_upright(rgb, orientation)
        return rgb, compare_sizes(rgb.size, size_wh, AS_STORED)
    match = compare_sizes(rgb.size, size_wh, orientation)
    return (turn_upright(rgb, orientation) if match is SizeMatch.TURNED else rgb), match


def compare_sizes(
    stored_wh: tuple[int, int], listed_wh: tuple[int, int] | None, orientation: int
) -> SizeMatch:
    """Compare the stored size of an image with the size in its annotation file.

    Args:
        stored_wh: stored width and height in pixels.
        listed_wh: width and height in the annotation file; None if missing.
        orientation: EXIF orientation, 1 to 8.
    """
    if listed_wh in (None, stored_wh):
        is_square = stored_wh[0] == stored_wh[1]
        turns_differ = orientation in QUARTER_TURNS and listed_wh is not None and not is_square
        return SizeMatch.EQUAL if orientation == AS_STORED or turns_differ else SizeMatch.AMBIGUOUS
    if orientation in QUARTER_TURNS and listed_wh == stored_wh[::-1]:
        return SizeMatch.TURNED
    return SizeMatch.DIFFERENT


def exif_orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8; 1 if missing or invalid. The image is not decoded.

    Args:
        image: opened image. Loading its pixels changes the result for TIFF files, which Pillow
            then rotates, and for PNG files with EXIF data after the pixels.
    """
    try:
        # `PngImageFile.getexif` would decode the image, to look for EXIF data after the pixels.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, AS_STORED)
    except Exception:  # Pillow raises many types for corrupt EXIF data
        return AS_STORED
    is_known = type(orientation) is int and 1 <= orientation <= 8
    return orientation if is_known else AS_STORED


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Rotate and flip a stored image so that it is upright.

    Args:
        image: the image as stored.
        orientation: EXIF orientation, 1 (upright) to 8.
    """
    turn = _TO_UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB.

    Modes with more than 8 bits (I;16, I, F), which Pillow would clip to white, are scaled with
    `gray_to_8_bits`; all other modes are converted by Pillow.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(gray_to_8_bits(np.asarray(image)))
    elif image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)
    elif image.mode in _MODE_BETWEEN:
        image = image.convert(_MODE_BETWEEN[image.mode])
    return image.convert("RGB")


def gray_to_8_bits(values: np.ndarray) -> np.ndarray:
    """Scale gray values of any depth to 8 bits without clipping.

    Non-negative integers are scaled by the bit depth actually used (at least 8 bits), so that
    12-bit data in a 16-bit file uses the whole range. Floats from 0 to 1 are multiplied by 255,
    other floats from 0 to 255 are rounded. All other values are scaled from their minimum (black)
    to their maximum (white).

    Args:
        values: (H, W), integers or floats. NaN is replaced with the minimum, infinity with the
            nearest finite value.

    Returns:
        (H, W) uint8.
    """
    low, high = _finite_range(values)
    if low < 0 or (values.dtype.kind == "f" and high > 255):
        black, white = low, high if high > low else low + 1
    elif values.dtype.kind == "f":
        black, white = 0.0, 1.0 if high <= 1 else 255.0
    else:
        black, white = 0.0, 2.0 ** max(8, int(high).bit_length()) - 1
    gray = np.empty(values.shape, dtype=np.uint8)
    rows_at_once = max(1, _VALUES_AT_ONCE // max(1, values.shape[1]))
    for top in range(0, len(values), rows_at_once):
        rows = slice(top, top + rows_at_once)
        scaled = np.nan_to_num(values[rows].astype(np.float64), nan=low, posinf=high, neginf=low)
        gray[rows] = np.rint((scaled - black) * 255 / (white - black))
    return gray


def _finite_range(values: np.ndarray) -> tuple[float, float]:
    """Smallest and largest finite value; zeros if there are none."""
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        if not finite.all():
            values = values[finite]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
