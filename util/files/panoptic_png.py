"""COCO's panoptic PNG format: segment id = red + 256 green + 256² blue; 0 is void."""

import io
from typing import Any

import numpy as np
from PIL import Image

from util.files.image_files import open_image

VOID_ID = 0
LARGEST_THING_ID = 90  # larger COCO category ids are stuff
MAX_ID = 256**3 - 1
_DEEP_MODES = {"F", "I", "I;16", "I;16B", "I;16L", "I;16N"}  # conversion to RGB loses ids


def rgb2id(color: Any) -> Any:
    """Convert colors to segment ids.

    Args:
        color: uint8 (..., 3) RGB, or three numbers.

    Returns:
        int32 (...); an int for three numbers.

    Raises:
        ValueError: if the last dimension is not 3.

    >>> rgb2id([2, 1, 0])
    258
    """
    colors = np.asarray(color)
    if colors.shape[-1:] != (3,):
        raise ValueError(f"colors must have shape (..., 3), got {colors.shape}")
    # Channel by channel: an integer matrix product takes twice as long.
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    ids = red + 256 * green + 256**2 * blue
    return int(ids) if colors.ndim == 1 else ids


def id2rgb(id_map: Any) -> Any:
    """Convert segment ids to colors; the inverse of `rgb2id`.

    Args:
        id_map: integers (...) from 0 to `MAX_ID`, or one number.

    Returns:
        uint8 (..., 3); a list of three numbers for one number.

    Raises:
        ValueError: if an id does not fit into three bytes.

    >>> id2rgb(258)
    [2, 1, 0]
    """
    ids = np.asarray(id_map)
    if ids.size and (ids.min() < 0 or ids.max() > MAX_ID):
        raise ValueError(f"segment ids must be 0 to {MAX_ID}, got {ids.min()} to {ids.max()}")
    # The four bytes of a little-endian integer; the last is 0.
    colors = ids.astype("<u4", order="C")[..., None].view(np.uint8)[..., :3]
    return colors if isinstance(id_map, np.ndarray) else colors.tolist()


def encode_id_map(id_map: np.ndarray) -> bytes:
    """Encode segment ids (H, W) as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(id2rgb(id_map)).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def decode_id_map(file: Any, name: str = "segment map") -> np.ndarray:
    """Decode a PNG file to segment ids, int32 (H, W).

    Args:
        file: path, or binary file.
        name: name of the file in error messages.

    Raises:
        UserError: if the file cannot be read, is not an 8-bit image, or exceeds the limits of
            `util.files.image_files`.
    """
    with open_image(file, name) as image:
        if image.mode in _DEEP_MODES:
            raise ValueError(f"mode {image.mode}, but segment ids are coded in 8-bit RGB")
        return rgb2id(np.asarray(image.convert("RGB")))
