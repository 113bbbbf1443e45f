"""Reading image files: every mode that Pillow knows becomes 8-bit RGB.

Pixels come as they are stored. The EXIF orientation is ignored on purpose: COCO's annotations refer
to stored pixels, and so does the original codebase. There is no colour management, and an alpha
channel is dropped, not blended.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from util.errors import UserError

# Modes that Pillow does not turn into RGB in one step (or not without a warning), and the step in
# between.
_MODE_BETWEEN = {"P": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "La": "LA"}


def read_image(path: str | Path) -> Image.Image:
    """Read an image file as 8-bit RGB.

    Args:
        path: any file that Pillow reads; of an animation the first frame.

    Returns:
        The picture in mode RGB, in stored orientation. See `to_rgb` for how other modes become RGB.

    Raises:
        UserError: the file is missing, truncated, broken, no image, or larger than Pillow's limit
            against decompression bombs.
    """
    try:
        with Image.open(path) as image:
            return to_rgb(image)
    except FileNotFoundError:
        raise UserError(f"image file {path} does not exist") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        raise UserError(f"image file {path} cannot be read: {error}; mend or remove it") from error


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
    scaled = values.astype(np.float64)
    finite = scaled[np.isfinite(scaled)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    scaled = np.nan_to_num(scaled, nan=low, posinf=high, neginf=low)
    if low < 0 or (values.dtype.kind == "f" and high > 255):
        black, white = low, high if high > low else low + 1
    elif values.dtype.kind == "f":
        black, white = 0.0, 1.0 if high <= 1 else 255.0
    else:
        black, white = 0.0, 2.0 ** max(8, int(high).bit_length()) - 1
    return np.rint((scaled - black) * 255 / (white - black)).astype(np.uint8)
