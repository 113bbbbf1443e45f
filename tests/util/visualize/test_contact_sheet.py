import numpy as np
import pytest
from PIL import Image

from util.errors import UserError
from util.visualize.contact_sheet import (
    contact_sheet,
    evenly_spaced,
    fit_column,
    save_image,
    shortened,
    with_caption,
)

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 255, 0)


def bounds(canvas, color):
    rows, columns = (np.asarray(canvas) == color).all(axis=-1).nonzero()
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


class TestContactSheet:
    def test_images_are_in_rows_and_columns(self):
        red, blue, green = (
            Image.new("RGB", size, color)
            for size, color in [((30, 20), RED), ((50, 10), BLUE), ((40, 40), GREEN)]
        )
        sheet = contact_sheet([(red, blue), (green, green)])
        left, top, right, bottom = bounds(sheet, RED)
        assert (right - left, bottom - top) == (30, 20)
        assert bounds(sheet, BLUE)[1] == top and bounds(sheet, BLUE)[0] > left + 50
        assert bounds(sheet, GREEN)[0] == left and bounds(sheet, GREEN)[1] > bottom
        assert (np.asarray(sheet) == GREEN).all(axis=-1).sum() == 2 * 40 * 40

    def test_one_column(self):
        sheet = contact_sheet([(Image.new("RGB", (30, 20), RED),)])
        assert sheet.size == (46, 36)

    def test_needs_a_row(self):
        with pytest.raises(ValueError, match="at least one row"):
            contact_sheet([])


class TestFitColumn:
    @pytest.mark.parametrize(
        ("size", "fitted"),
        [((1280, 960), (640, 480)), ((640, 10), (640, 10)), ((1, 5000), (1, 640))],
    )
    def test_large_images_shrink(self, size, fitted):
        image = fit_column(Image.new("L", size))
        assert image.size == fitted and image.mode == "RGB"


def test_a_caption_is_above_the_whole_image():
    framed = with_caption(Image.new("RGB", (200, 50), RED), "a caption")
    left, top, right, bottom = bounds(framed, RED)
    assert (left, right, bottom - top, bottom) == (0, 200, 50, framed.height)
    assert (np.asarray(framed)[:top] < 100).any()


class TestSavePicture:
    def test_the_suffix_determines_the_format(self, tmp_path):
        save_image(Image.new("RGB", (8, 8), RED), tmp_path / "a.JPG")
        with Image.open(tmp_path / "a.JPG") as canvas:
            assert canvas.format == "JPEG"

    @pytest.mark.parametrize("name", ["sheet", "sheet.nothing"])
    def test_an_unknown_suffix_is_refused(self, tmp_path, name):
        with pytest.raises(UserError, match=rf"{name}: '.*' is not an image format"):
            save_image(Image.new("RGB", (8, 8)), tmp_path / name)
        assert not list(tmp_path.iterdir())


def test_items_are_chosen_evenly_spaced():
    assert evenly_spaced(range(10), 4) == [0, 2, 5, 7]
    assert evenly_spaced("ab", 4) == ["a", "b"] and evenly_spaced([], 4) == []


def test_long_captions_lose_letters_in_the_middle():
    assert shortened("short.jpg: 1 object", 400) == "short.jpg: 1 object"
    short = shortened("a/very/long/name/of/a/file/number/123456789.jpg: 12 objects, 3 missed", 200)
    assert short.startswith("a/very") and short.endswith("missed") and "…" in short
    assert with_caption(Image.new("RGB", (200, 50)), short).width == 200
