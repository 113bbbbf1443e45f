"""What pictures of boxes, masks and panoptic maps share: colours, sizes and text."""

import colorsys
import zlib
from collections.abc import Hashable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
RectangleXYXY = tuple[float, float, float, float]

# Text of this height, in pixels, is legible; smaller images are enlarged to carry it, and on larger
# ones, which will be looked at from further away, it grows.
FONT_SIZE = 14
_FONT_SHARE_OF_LONG_SIDE = 1 / 60
_SMALLEST_LONG_SIDE = 400
_LARGEST_ENLARGEMENT = 8

# Saturation and value of a class's objects in turn; the first is the colour of the class itself.
_SHADES = ((0.85, 0.9), (0.45, 1.0), (1.0, 0.55), (0.65, 0.75), (0.25, 0.9))
# Those of stuff vary by class, since the hues of two classes may be close.
_PALE_SHADES = ((0.35, 0.8), (0.5, 0.55), (0.25, 0.95), (0.55, 0.8), (0.3, 0.45))


# ---- colours


def class_colour(name: str) -> Colour:
    """A bright RGB colour, three numbers from 0 to 255, always the same for the same name."""
    return _colour(name, *_SHADES[0])


def object_colour(name: str, rank: int) -> Colour:
    """The colour of one of a class's objects: the class's hue in a shade that varies with ``rank``.

    Args:
        name: of the class.
        rank: from 0, which has the colour of the class. Neighbours in rank differ clearly.
    """
    return _colour(name, *_SHADES[rank % len(_SHADES)])


def stuff_colour(name: str) -> Colour:
    """The hue of a class in a pale shade, which leaves the attention to the things."""
    return _colour(name, *_PALE_SHADES[_hash(name) // 360 % len(_PALE_SHADES)])


def readable_on(colour: Colour) -> Colour:
    """Black on light colours, white on dark ones."""
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return (0, 0, 0) if luminance > 140 else (255, 255, 255)


def ranks_within(classes: Sequence[Hashable], positions: Sequence[float]) -> list[int]:
    """The place of each object among those of its class, in the order of their positions.

    Args:
        classes: [N] what tells classes apart.
        positions: [N] numbers, such as distances from the left edge.

    Returns:
        [N] ranks from 0 within each class.

    >>> ranks_within(["cat", "dog", "cat"], [30, 20, 10])
    [1, 0, 0]
    """
    seen: dict[Hashable, int] = {}
    ranks = [0] * len(classes)
    for index in sorted(range(len(classes)), key=lambda i: positions[i]):
        ranks[index] = seen.get(classes[index], 0)
        seen[classes[index]] = ranks[index] + 1
    return ranks


def _colour(name: str, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(_hash(name) % 360 / 360, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _hash(name: str) -> int:
    """A number that is the same in every process, unlike Python's own hash."""
    return zlib.crc32(name.encode())


# ---- sizes


def enlargement(image: Image.Image) -> int:
    """The whole factor by which a small image grows until text fits on it."""
    factor = -(-_SMALLEST_LONG_SIDE // max(image.size))
    return min(factor, _LARGEST_ENLARGEMENT)


def enlarged(image: Image.Image) -> Image.Image:
    """A copy in RGB, grown by `enlargement`."""
    factor = enlargement(image)
    size = (image.width * factor, image.height * factor)
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def resize_nearest(values: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """A mask or id map (H, W) at another size, each pixel with the value of the nearest.

    At its own size it is returned as it is.

    Args:
        values: (H, W) of any type.
        size_wh: new width and height.
    """
    width, height = size_wh
    if values.shape == (height, width):
        return values
    rows = (2 * np.arange(height) + 1) * values.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * values.shape[1] // (2 * width)
    return values[rows[:, None], columns]


def line_width(picture: Image.Image) -> int:
    """Pixels that a line needs to be seen on a picture of this size."""
    return max(2, max(picture.size) // 300)


# ---- text


class TextStyle:
    """Names in a size that fits a picture, each on a ground of its colour.

    Args:
        size_wh: width and height of the picture.
    """

    def __init__(self, size_wh: tuple[int, int]):
        self.font_size = max(FONT_SIZE, round(max(size_wh) * _FONT_SHARE_OF_LONG_SIDE))
        self._font = ImageFont.load_default(self.font_size)

    def size_of(self, text: str) -> tuple[float, float]:
        """Width and height of the ground under a text, in pixels."""
        return self._font.getlength(text) + 4, self.font_size + 4

    def write(
        self, draw: ImageDraw.ImageDraw, left_top: tuple[float, float], text: str, colour: Colour
    ) -> None:
        """Write a text on a ground of ``colour`` whose corner is ``left_top``."""
        left, top = left_top
        width, height = self.size_of(text)
        draw.rectangle((left, top, left + width, top + height), fill=colour)
        draw.text((left + 2, top + 1), text, fill=readable_on(colour), font=self._font)


def with_scores(names: Sequence[str], scores: Sequence[float | None]) -> list[str]:
    """Names with their scores behind them, where they have one."""
    return [n if s is None else f"{n} {s:.2f}" for n, s in zip(names, scores, strict=True)]
