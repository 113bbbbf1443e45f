"""Colors, sizes, text and fonts of drawings."""

import colorsys
import functools
import importlib.util
import zlib
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
RectangleXYXY = tuple[float, float, float, float]

# Smallest legible text height in pixels. Small images are enlarged to make space for it. Text is
# larger on large images, because these are usually displayed scaled down.
FONT_SIZE = 14
_FONT_PER_LONG_SIDE = 1 / 60
_FONT_PER_SHORT_SIDE = 1 / 12  # limit for panoramas and strips
_SMALLEST_LONG_SIDE = 400
_LARGEST_ENLARGEMENT = 8

# Saturation and value of successive objects of a class; the first is the color of the class.
_SHADES = ((0.85, 0.9), (0.45, 1.0), (1.0, 0.55), (0.65, 0.75), (0.25, 0.9))
# Saturation and value of stuff classes; they vary, since the hues of two classes may be similar.
_PALE_SHADES = ((0.35, 0.8), (0.5, 0.55), (0.25, 0.95), (0.55, 0.8), (0.3, 0.45))

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_FIRST_EAST_ASIAN = "\u2e80"  # Chinese, Japanese and Korean characters begin here
# Usual files of system fonts with these characters.
_EAST_ASIAN_FONTS = (
    *("NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf"),
    *("msyh.ttc", "malgun.ttf", "PingFang.ttc", "AppleSDGothicNeo.ttc"),
)


# ---- colors


def class_color(name: str) -> Color:
    """Bright RGB color in 0 … 255 that depends only on the name."""
    return _color(name, *_SHADES[0])


def object_color(name: str, rank: int) -> Color:
    """Color of an object: the hue of its class, in a shade that depends on ``rank``.

    Args:
        rank: index of the object within its class; 0 has the color of the class. Consecutive ranks
            differ clearly.
    """
    return _color(name, *_SHADES[rank % len(_SHADES)])


def stuff_color(name: str) -> Color:
    """Hue of a stuff class in a pale shade, so that things stand out."""
    return _color(name, *_PALE_SHADES[_hash(name) // 360 % len(_PALE_SHADES)])


def readable_on(color: Color) -> Color:
    """Text color: black on light colors, white on dark colors."""
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return (0, 0, 0) if luminance > 140 else (255, 255, 255)


def ranks_within(classes: Sequence[Hashable], positions: Sequence[float]) -> list[int]:
    """Rank of each object within its class, in the order of positions.

    Args:
        classes: [N] class of each object.
        positions: [N] numbers, such as distances from the left edge.

    Returns:
        [N] ranks from 0 within each class.

    >>> ranks_within(["cat", "dog", "cat"], [30, 20, 10])
    [1, 0, 0]
    """
    counts: dict[Hashable, int] = {}
    ranks = [0] * len(classes)
    for index in sorted(range(len(classes)), key=lambda i: positions[i]):
        ranks[index] = counts.get(classes[index], 0)
        counts[classes[index]] = ranks[index] + 1
    return ranks


def _color(name: str, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(_hash(name) % 360 / 360, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _hash(name: str) -> int:
    """Hash that is the same in every process, unlike Python's own hash."""
    return zlib.crc32(name.encode())


# ---- sizes


def enlargement(image: Image.Image) -> int:
    """Integer factor by which a small image is enlarged to make space for text."""
    factor = -(-_SMALLEST_LONG_SIDE // max(image.size))
    return min(factor, _LARGEST_ENLARGEMENT)


def enlarged(image: Image.Image) -> Image.Image:
    """RGB copy, enlarged by `enlargement`."""
    factor = enlargement(image)
    size = (image.width * factor, image.height * factor)
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def resize_nearest(values: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """Resize a mask or id map with nearest-neighbor sampling.

    Args:
        values: (H, W) of any dtype; returned unchanged if it has this size.
        size_wh: new width and height.
    """
    width, height = size_wh
    if values.shape == (height, width):
        return values
    rows = (2 * np.arange(height) + 1) * values.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * values.shape[1] // (2 * width)
    return values[rows[:, None], columns]


def line_width(image: Image.Image) -> int:
    """Line width in pixels for an image of this size."""
    return max(2, min(max(image.size) // 300, min(image.size) // 60))


def dashed_rectangle(
    draw: ImageDraw.ImageDraw, outline: RectangleXYXY, color: Color, width: int
) -> None:
    """Draw the outline of a rectangle with dashes of three line widths."""
    x0, y0, x1, y1 = (round(value) for value in outline)
    dash = 3 * width
    for left in range(x0, x1 + 1, 2 * dash):
        right = min(left + dash - 1, x1)
        for top in (y0, max(y0, y1 - width + 1)):
            draw.rectangle((left, top, right, min(top + width - 1, y1)), fill=color)
    for top in range(y0, y1 + 1, 2 * dash):
        bottom = min(top + dash - 1, y1)
        for left in (x0, max(x0, x1 - width + 1)):
            draw.rectangle((left, top, min(left + width - 1, x1), bottom), fill=color)


# ---- text


class TextStyle:
    """Draws text on colored rectangles, in a font size that suits the image."""

    def __init__(self, size_wh: tuple[int, int]):
        sizes = (
            max(size_wh) * _FONT_PER_LONG_SIDE,
            min(size_wh) * _FONT_PER_SHORT_SIDE,
        )
        self.font_size = max(FONT_SIZE, round(min(sizes)))

    def size_of(self, text: str) -> tuple[float, float]:
        """Width and height of the rectangle behind a text, in pixels."""
        return font_for(text, self.font_size).getlength(text) + 4, self.font_size + 4

    def write(
        self, draw: ImageDraw.ImageDraw, left_top: tuple[float, float], text: str, color: Color
    ) -> None:
        """Write a text on a rectangle of ``color`` at ``left_top``."""
        left, top = left_top
        width, height = self.size_of(text)
        draw.rectangle((left, top, left + width, top + height), fill=color)
        font = font_for(text, self.font_size)
        draw.text((left + 2, top + 1), text, fill=readable_on(color), font=font)


def with_scores(names: Sequence[str], scores: Sequence[float | None]) -> list[str]:
    """Append scores to names; None: no score."""
    return [n if s is None else f"{n} {s:.2f}" for n, s in zip(names, scores, strict=True)]


def font_for(text: str, size: int) -> Font:
    """A font that has the characters of a text.

    Pillow's font, which has only ASCII characters, else DejaVu Sans, which is part of matplotlib.
    Chinese, Japanese and Korean need a font of the system; without one, boxes are drawn.

    Args:
        size: font size in pixels.
    """
    if text.isascii():
        return _default_font(size)
    return _unicode_font(size, max(text) >= _FIRST_EAST_ASIAN)


@functools.cache
def _default_font(size: int) -> Font:
    return ImageFont.load_default(size)


@functools.cache
def _unicode_font(size: int, is_east_asian: bool) -> Font:
    names = [*(_EAST_ASIAN_FONTS if is_east_asian else ()), *_matplotlib_fonts()]
    for name in names:
        try:
            return ImageFont.truetype(name, size)
        except OSError:  # not installed
            continue
    return _default_font(size)


def _matplotlib_fonts() -> list[str]:
    """DejaVu Sans; matplotlib is found without importing it, which would take long."""
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        return []
    return [str(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")]
