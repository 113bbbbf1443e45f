"""Fonts for text in images."""

import functools
import importlib.util
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_FIRST_EAST_ASIAN = "\u2e80"  # Chinese, Japanese and Korean characters begin here
# Usual files of system fonts with these characters.
_EAST_ASIAN_FONTS = (
    *("NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf"),
    *("msyh.ttc", "malgun.ttf", "PingFang.ttc", "AppleSDGothicNeo.ttc"),
)


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
