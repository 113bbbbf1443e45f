"""Fonts that have the characters of a text."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from util.visualize.drawing import TextStyle, font_for

_MISSING = "\uffff"  # no font has it: drawn as a box


def drawn(text, font):
    image = Image.new("L", (40, 40))
    ImageDraw.Draw(image).text((5, 5), text, fill=255, font=font)
    return np.asarray(image)


def test_ascii_is_drawn_in_pillows_font():
    expected = drawn("cat 0.87", ImageFont.load_default(14))
    assert (drawn("cat 0.87", font_for("cat 0.87", 14)) == expected).all()


@pytest.mark.parametrize("character", "éßñčжΩ…×")
def test_characters_beyond_ascii_are_not_boxes(character):
    font = font_for(character, 20)
    assert (drawn(character, font) != drawn(_MISSING, font)).any()


def test_a_character_that_no_font_has_is_no_error():
    canvas = Image.new("RGB", (400, 100))
    TextStyle(canvas.size).write(ImageDraw.Draw(canvas), (10, 20), "細胞 0.50", (0, 0, 255))
    assert canvas.getbbox() is not None
