"""Reading image files: every mode that Pillow knows becomes 8-bit RGB.

Pixels come as they are stored. The EXIF orientation is ignored on purpose: COCO's annotations refer
to stored pixels, and so does the original codebase. There is no colour management, and an alpha
channel is dropped, not blended.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from util.image_files import open_image

# Modes that Pillow does not turn into RGB in one step (or not without a warning), and the step in
# between.
_MODE_BETWEEN = {"P": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "La": "LA"}

# 64-bit copies of a large picture would take many times its memory, so it is scaled in parts.
_VALUES_AT_ONCE = 2**20


def read_image(path: str | Path, name: str | None = None) -> Image.Image:
    """Read an image file as 8-bit RGB.

    Args:
        path: any file that Pillow reads; of an animation the first frame.
        name: what messages call it; None: by its path.

    Returns:
        The picture in mode RGB, in stored orientation. See `to_rgb` for how other modes become RGB.

    Raises:
        UserError: the file is missing, truncated, broken, no image, or larger than the limits of
            `util.image_files` (then an `ImageTooLargeError`).
    """
    with open_image(path, name or f"image file {path}") as image:
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """A copy of the picture in 8-bit RGB.

    Grey, bilevel, palette, CMYK, YCbCr, HSV and alpha modes are converted as Pillow does. Modes
    with more than 8 bits (I;16, I, F), which Pillow would clip to white, are scaled as
    `grey_to_8_bits` describes.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(grey_to_8_bits(np.asarray(image)))
    elif image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)
    elif image.mode in _MODE_BETWEEN:
        image = image.convert(_MODE_BETWEEN[image.mode])
    return image.convert("RGB")


def grey_to_8_bits(values: np.ndarray) -> np.ndarray:
    """Scale grey values of any depth to 8 bits, with nothing clipped and little contrast lost.

    Integers: the full scale is that of the fewest bits, at least 8, that hold the largest value:
    12-bit data in a 16-bit file uses the whole range, 8-bit data stays as it is. Floats from 0 to 1
    are multiplied by 255, other floats up to 255 stay. Everything else (negative values, larger
    floats) is stretched from its smallest to its largest value.

    Args:
        values: (H, W), integers or floats. NaN counts as the smallest value, infinity as the
            nearest finite one.

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
    grey = np.empty(values.shape, dtype=np.uint8)
    rows_at_once = max(1, _VALUES_AT_ONCE // max(1, values.shape[1]))
    for top in range(0, len(values), rows_at_once):
        rows = slice(top, top + rows_at_once)
        scaled = np.nan_to_num(values[rows].astype(np.float64), nan=low, posinf=high, neginf=low)
        grey[rows] = np.rint((scaled - black) * 255 / (white - black))
    return grey


def _finite_range(values: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest finite value; zeros where there is none."""
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        if not finite.all():
            values = values[finite]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
