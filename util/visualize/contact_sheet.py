"""Contact sheets: images with captions in rows and columns, written to one file."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageDraw

from util.errors import UserError
from util.files.checkpoint_file import atomic_write
from util.visualize.drawing import FONT_SIZE, font_for

Item = TypeVar("Item")

COLUMN_WIDTH = 640
_MARGIN = 8
_CAPTION_HEIGHT = FONT_SIZE + 8
_BACKGROUND = (250, 250, 250)
_INK = (20, 20, 20)
_SAVE_OPTIONS: dict[str, dict[str, int]] = {
    "PNG": {"compress_level": 1},  # saves most of the time
    "JPEG": {"quality": 92},  # sharp text
    "WEBP": {"quality": 92},
}


def fit_column(image: Image.Image, width: int = COLUMN_WIDTH) -> Image.Image:
    """RGB copy, scaled down until width and height are at most ``width`` pixels."""
    rgb = image.convert("RGB")
    factor = min(1.0, width / max(rgb.size))
    if factor == 1:
        return rgb
    return rgb.resize((max(1, round(rgb.width * factor)), max(1, round(rgb.height * factor))))


def with_caption(image: Image.Image, caption: str) -> Image.Image:
    """Add a line of text above an image; the result is widened to fit the text."""
    font = font_for(caption, FONT_SIZE)
    width = max(image.width, round(font.getlength(caption)))
    framed = Image.new("RGB", (width, image.height + _CAPTION_HEIGHT), _BACKGROUND)
    ImageDraw.Draw(framed).text((0, 2), caption, fill=_INK, font=font)
    framed.paste(image, (0, _CAPTION_HEIGHT))
    return framed


def shortened(text: str, width: float) -> str:
    """Shorten a caption to ``width`` pixels: an ellipsis replaces its middle."""
    kept = len(text)
    short = text
    while kept > 2 and font_for(short, FONT_SIZE).getlength(short) > width:
        kept -= 1
        short = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return short


def evenly_spaced(items: Sequence[Item], most: int) -> list[Item]:
    """Choose at most ``most`` items, evenly spaced.

    >>> evenly_spaced("abcdef", 3)
    ['a', 'c', 'e']
    """
    number = min(most, len(items))
    return [items[k * len(items) // number] for k in range(number)]


def contact_sheet(rows: Iterable[Sequence[Image.Image]]) -> Image.Image:
    """Arrange images in rows, with columns of equal width.

    Args:
        rows: images from left to right.

    Raises:
        ValueError: if there are no rows.
    """
    drawn = list(rows)
    if not drawn:
        raise ValueError("a contact sheet needs at least one row")
    column_width = max(image.width for row in drawn for image in row) + _MARGIN
    row_heights = [max(image.height for image in row) + _MARGIN for row in drawn]
    num_columns = max(len(row) for row in drawn)
    size = (num_columns * column_width + _MARGIN, sum(row_heights) + _MARGIN)
    sheet = Image.new("RGB", size, _BACKGROUND)
    top = _MARGIN
    for row, height in zip(drawn, row_heights, strict=True):
        for column, image in enumerate(row):
            sheet.paste(image, (_MARGIN + column * column_width, top))
        top += height
    return sheet


def save_image(image: Image.Image, path: str | Path, durable: bool = True) -> None:
    """Write an image atomically, in the format of the suffix of ``path``.

    Args:
        image: image in a mode that the format can store.
        path: file to create or replace; its folder must exist.
        durable: sync to disk, see `util.files.checkpoint_file.atomic_write`.

    Raises:
        UserError: if Pillow has no format with this suffix.
    """
    suffix = Path(path).suffix.lower()
    format_name = Image.registered_extensions().get(suffix)
    if format_name not in Image.SAVE:
        raise UserError(f"{path}: {suffix!r} is not an image format; write a .png or .jpg file")
    with atomic_write(path, durable=durable) as file:
        image.save(file, format_name, **_SAVE_OPTIONS.get(format_name, {}))
