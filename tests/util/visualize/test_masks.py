import numpy as np
import pytest
from PIL import Image

from util.visualize.masks import near_border, paint_masks, paint_segments, place_labels

GRAY = (128, 128, 128)
RED, BLUE = (255, 0, 0), (0, 0, 255)
RANDOM = np.random.default_rng(0)


class TestNearBorder:
    @pytest.mark.parametrize("line_width", [1, 2, 3, 6])
    def test_the_line_is_as_wide_as_said_and_in_the_middle(self, line_width):
        index_map = np.zeros((20, 30), dtype=int)
        index_map[:, 15:] = 1
        columns = np.flatnonzero(near_border(index_map, line_width).all(axis=0))
        assert len(columns) == line_width
        assert abs(columns.mean() - 14.5) <= 0.5
        assert (near_border(index_map.T, line_width) == near_border(index_map, line_width).T).all()

    @pytest.mark.parametrize("line_width", [1, 2, 4])
    def test_agrees_with_a_walk_from_every_edge(self, line_width):
        regions = RANDOM.integers(0, 2, (4, 5)).repeat(3, axis=0).repeat(3, axis=1)
        expected = np.zeros(regions.shape, dtype=bool)
        for step in range(1 - line_width // 2, 1 + line_width - line_width // 2):
            for y, x in np.ndindex(regions.shape):
                if y + 1 < 12 and regions[y, x] != regions[y + 1, x]:
                    expected[min(max(y + step, 0), 11), x] = True
                if x + 1 < 15 and regions[y, x] != regions[y, x + 1]:
                    expected[y, min(max(x + step, 0), 14)] = True
        assert (near_border(regions, line_width) == expected).all()

    def test_one_region_has_no_border(self):
        assert not near_border(np.full((5, 5), -1), 3).any()

    def test_borders_at_the_edge_are_cut(self):
        index_map = np.arange(4).reshape(2, 2)
        assert near_border(index_map, 6).all()


class TestPaint:
    def test_a_mask_has_a_tint_and_an_outline_within(self):
        mask = np.zeros((20, 20), dtype=bool)
        mask[5:15, 5:15] = True
        pixels = np.asarray(paint_masks(Image.new("RGB", (20, 20), GRAY), [mask], [RED], 2))
        assert (pixels[~mask] == GRAY).all()
        core = np.zeros_like(mask)
        core[7:13, 7:13] = True
        assert (pixels[mask & ~core] == RED).all()
        assert (pixels[core] == (192, 64, 64)).all()

    def test_a_mask_at_the_edge_of_the_image_has_its_whole_outline(self):
        mask = np.ones((10, 10), dtype=np.uint8)
        pixels = np.asarray(paint_masks(Image.new("RGB", (10, 10), GRAY), [mask], [RED], 3))
        assert (pixels == RED).all(axis=-1).sum() == 100 - 16

    def test_masks_thinner_than_their_outline(self):
        for mask in (np.eye(10, dtype=bool), np.eye(10, 1, dtype=bool).repeat(10, 1)):
            pixels = np.asarray(paint_masks(Image.new("RGB", (10, 10), GRAY), [mask], [RED], 3))
            assert ((pixels == RED).all(axis=-1) == mask).all()

    def test_later_masks_lie_on_top(self):
        mask = np.ones((9, 9), dtype=bool)
        canvas = paint_masks(Image.new("RGB", (9, 9), GRAY), [mask, mask], [RED, BLUE], 1)
        assert canvas.getpixel((0, 0)) == BLUE
        red, _, blue = canvas.getpixel((4, 4))
        assert blue > red > 64

    def test_segments_are_tinted_and_void_is_not(self):
        index_map = np.full((20, 30), -1)
        index_map[:, 10:20], index_map[:, 20:] = 0, 1
        canvas = paint_segments(Image.new("RGB", (30, 20), GRAY), index_map, [RED, BLUE], 2)
        pixels = np.asarray(canvas)
        assert (pixels[:, :10] == GRAY).all()
        assert (pixels[:, 12:18] == (192, 64, 64)).all()
        assert (pixels[:, 22:] == (64, 64, 192)).all()
        assert (pixels[:, [10, 19, 20]] == pixels[0, 10]).all() and pixels[0, 10].sum() < 100

    def test_no_segments(self):
        image = Image.new("RGB", (4, 3), GRAY)
        assert paint_segments(image, np.full((3, 4), -1), [], 2).tobytes() == image.tobytes()


class TestPlaceNames:
    def test_the_middle_of_a_rectangle(self):
        index_map = np.full((200, 300), -1)
        index_map[50:150, 100:300] = 0
        ((left, top),) = place_labels(index_map, [(40, 18)])
        assert (left + 20, top + 9) == pytest.approx((200, 100), abs=4)

    def test_a_ring_carries_its_name_on_its_band(self):
        index_map = np.zeros((300, 300), dtype=int)
        index_map[60:240, 60:240] = -1
        ((left, top),) = place_labels(index_map, [(40, 18)])
        assert index_map[top + 9, left + 20] == 0

    def test_names_lie_in_their_segments_and_never_on_each_other(self):
        coarse = RANDOM.integers(-1, 12, (6, 8))
        index_map = coarse.repeat(50, axis=0).repeat(60, axis=1)
        sizes = [(30 + 10 * i, 18) for i in range(12)]
        covered = np.zeros(index_map.shape, dtype=int)
        placed = 0
        for index, corner in enumerate(place_labels(index_map, sizes)):
            if corner is None:
                continue
            (left, top), (width, height) = corner, sizes[index]
            assert left >= 0 and left + width <= 480 and top >= 0 and top + height <= 300
            covered[top : top + height, left : left + width] += 1
            under = index_map[top : top + height, left : left + width]
            assert (under == index).mean() >= 0.45
            placed += 1
        assert placed >= 6 and covered.max() == 1

    @pytest.mark.parametrize("side", [0, 5, 15])
    def test_a_small_segment_has_none(self, side):
        index_map = np.zeros((100, 100), dtype=int)
        index_map[:side, :side] = 1
        corners = place_labels(index_map, [(40, 18), (40, 18)])
        assert corners[0] is not None and corners[1] is None

    def test_a_label_wider_than_the_image_is_dropped(self):
        assert place_labels(np.zeros((100, 30), dtype=int), [(40, 18)]) == [None]

    def test_large_maps_are_searched_on_a_grid(self):
        index_map = np.zeros((2000, 3000), dtype=int)
        index_map[:, 1000:] = 1
        corners = place_labels(index_map, [(200, 54)] * 2)
        centers = [left + 100 for left, _ in corners]
        assert centers == pytest.approx([500, 2000], abs=80)

    def test_nothing(self):
        assert place_labels(np.full((4, 4), -1), []) == []
