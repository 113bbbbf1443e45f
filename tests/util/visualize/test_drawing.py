import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from util.visualize.drawing import (
    TextStyle,
    class_color,
    enlarged,
    line_width,
    object_color,
    ranks_within,
    readable_on,
    resize_nearest,
    stuff_color,
    with_scores,
)


def far_apart(one, other):
    return np.abs(np.subtract(one, other)).sum() > 60


class TestColors:
    def test_neighbors_in_rank_differ_clearly(self):
        shades = [object_color("cat", rank) for rank in range(12)]
        assert all(far_apart(a, b) for a, b in itertools.pairwise(shades))
        assert shades[0] == class_color("cat")

    def test_the_shades_of_a_class_keep_its_order_of_channels(self):
        order = np.argsort(class_color("cat"))
        for rank in range(12):
            assert (np.diff(np.array(object_color("cat", rank))[order]) >= 0).all()

    @pytest.mark.parametrize("name", ["grass", "sky-other-merged", "wall", ""])
    def test_stuff_is_paler_than_things(self, name):
        def range_of(color):
            return max(color) - min(color)

        assert 0 < range_of(stuff_color(name)) < 0.75 * range_of(class_color(name))

    def test_text_differs_from_its_ground(self):
        assert readable_on((255, 255, 0)) == (0, 0, 0)
        assert readable_on((0, 0, 255)) == (255, 255, 255)


class TestRanksWithin:
    def test_counts_from_left_to_right_in_each_class(self):
        classes, positions = ["b", "a", "b", "a", "b"], [5, 4, 3, 2, 1]
        assert ranks_within(classes, positions) == [2, 1, 1, 0, 0]

    def test_objects_at_the_same_position_differ(self):
        assert sorted(ranks_within(["a"] * 3, [7, 7, 7])) == [0, 1, 2]

    def test_nothing(self):
        assert ranks_within([], []) == []


class TestResizeNearest:
    @pytest.mark.parametrize("size_wh", [(21, 15), (3, 2), (1, 1), (20, 4)])
    def test_agrees_with_pillow(self, size_wh):
        values = np.random.default_rng(0).integers(0, 1 << 24, (5, 7), dtype=np.int32)
        by_pillow = Image.fromarray(values).resize(size_wh, Image.Resampling.NEAREST)
        assert (resize_nearest(values, size_wh) == np.asarray(by_pillow)).all()

    def test_its_own_size_costs_nothing(self):
        values = np.zeros((5, 7))
        assert resize_nearest(values, (7, 5)) is values

    def test_a_whole_factor_repeats_pixels_of_any_type(self):
        mask = np.array([[True, False]])
        assert (resize_nearest(mask, (6, 3)) == np.repeat(np.repeat(mask, 3, 0), 3, 1)).all()


def test_small_images_are_enlarged():
    small, large = Image.new("L", (100, 50)), Image.new("RGB", (400, 10))
    assert enlarged(small).size == (400, 200) and enlarged(small).mode == "RGB"
    assert enlarged(large).size == large.size and enlarged(large) is not large


def test_the_ground_is_as_large_as_said():
    canvas = Image.new("RGB", (400, 100))
    style = TextStyle(canvas.size)
    style.write(ImageDraw.Draw(canvas), (10, 20), "jpqy 0.50", (0, 0, 255))
    left, top, right, bottom = canvas.getbbox()
    width, height = style.size_of("jpqy 0.50")
    assert (left, top) == (10, 20)
    assert (right - 11, bottom - 21) == pytest.approx((width, height), abs=1)


def test_scores_stand_behind_the_names_that_have_one():
    assert with_scores(["cat", "sky"], [0.876, None]) == ["cat 0.88", "sky"]


@pytest.mark.parametrize(
    ("size_wh", "font_size", "line"),
    [((1600, 1200), 27, 5), ((1200, 600), 20, 4), ((10000, 300), 25, 5), ((20, 3000), 14, 2)],
)
def test_text_and_lines_of_panoramas_and_strips_leave_room_for_the_image(size_wh, font_size, line):
    assert TextStyle(size_wh).font_size == font_size
    assert line_width(Image.new("L", size_wh)) == line
