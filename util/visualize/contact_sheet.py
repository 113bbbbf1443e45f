"""Contact sheets: pictures in rows and columns, each below its caption, written as one file."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from util.errors import UserError
from util.files.checkpoint import atomic_write
from util.visualize.drawing import FONT_SIZE

_COLUMN_WIDTH = 640
_MARGIN = 8
_CAPTION_HEIGHT = FONT_SIZE + 8
_BACKGROUND = (250, 250, 250)
_INK = (20, 20, 20)


def fit_column(image: Image.Image) -> Image.Image:
    """A copy in RGB whose longer side is at most the width of a column."""
    rgb = image.convert("RGB")
    factor = min(1.0, _COLUMN_WIDTH / max(rgb.size))
    if factor == 1:
        return rgb
    return rgb.resize((max(1, round(rgb.width * factor)), max(1, round(rgb.height * factor))))


def with_caption(picture: Image.Image, caption: str) -> Image.Image:
    """The picture below a line of text; wider than before if the text is."""
    font = ImageFont.load_default(FONT_SIZE)
    width = max(picture.width, round(font.getlength(caption)))
    framed = Image.new("RGB", (width, picture.height + _CAPTION_HEIGHT), _BACKGROUND)
    ImageDraw.Draw(framed).text((0, 2), caption, fill=_INK, font=font)
    framed.paste(picture, (0, _CAPTION_HEIGHT))
    return framed


def contact_sheet(rows: Iterable[Sequence[Image.Image]]) -> Image.Image:
    """Pictures in rows, in columns of one width.

    Args:
        rows: pictures from left to right, as many in each row.

    Raises:
        ValueError: there are no rows.
    """
    drawn = list(rows)
    if not drawn:
        raise ValueError("a contact sheet needs at least one row")
    column_width = max(picture.width for row in drawn for picture in row) + _MARGIN
    row_heights = [max(picture.height for picture in row) + _MARGIN for row in drawn]
    num_columns = max(len(row) for row in drawn)
    size = (num_columns * column_width + _MARGIN, sum(row_heights) + _MARGIN)
    sheet = Image.new("RGB", size, _BACKGROUND)
    top = _MARGIN
    for row, height in zip(drawn, row_heights, strict=True):
        for column, picture in enumerate(row):
            sheet.paste(picture, (_MARGIN + column * column_width, top))
        top += height
    return sheet


def save_picture(picture: Image.Image, path: str | Path) -> None:
    """Write a picture, whole or not at all, in the format that the ending of ``path`` names.

    Raises:
        UserError: Pillow knows no format with that ending.
    """
    ending = Path(path).suffix.lower()
    format_name = Image.registered_extensions().get(ending)
    if format_name not in Image.SAVE:
        raise UserError(f"{path}: no picture format ends in {ending!r}; write a .png or a .jpg")
    with atomic_write(path) as file:
        picture.save(file, format_name, compress_level=1)  # of PNG: saves most of the time


def count(number: int, noun: str) -> str:
    """A number with its noun, in the plural where it is not one.

    >>> count(1, "object"), count(2, "object")
    ('1 object', '2 objects')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
