import numpy as np
import pytest
from PIL import Image

from util.visualize.boxes import _overlap, _place_labels, draw_boxes
from util.visualize.drawing import class_color, object_color

GRAY = (128, 128, 128)
BOX = (100, 100, 300, 250)


def blank(width=600, height=400, mode="RGB"):
    return Image.new("RGB", (width, height), GRAY).convert(mode)


def colored(canvas, color):
    return (np.asarray(canvas) == color).all(axis=-1)


class TestDrawBoxes:
    def test_the_outline_follows_the_box(self):
        canvas = draw_boxes(blank(), [BOX], ["cat"])
        rows, columns = colored(canvas, class_color("cat")).nonzero()
        assert (columns.min(), columns.max(), rows.max()) == (100, 300, 250)
        assert canvas.getpixel((200, 200)) == GRAY and canvas.size == (600, 400)

    def test_the_image_is_not_changed(self):
        image = blank()
        draw_boxes(image, [BOX], ["cat"])
        assert image.tobytes() == blank().tobytes()

    def test_small_images_grow_by_a_whole_factor(self):
        canvas = draw_boxes(blank(96, 64), [(10, 10, 40, 50)], ["cat"])
        assert canvas.size == (96 * 5, 64 * 5)
        assert colored(canvas, class_color("cat")).nonzero()[0].max() == 50 * 5

    def test_on_large_images_the_names_grow(self):
        def ground_of_name(size):
            canvas = draw_boxes(
                blank(size, size), [(size / 4, size / 4, size / 2, size / 2)], ["i"]
            )
            return colored(canvas, class_color("i"))[: size // 4 - 5].any(axis=1).sum()

        assert ground_of_name(3000) > 2 * ground_of_name(600) > 20

    def test_scores_are_shown_behind_names(self):
        without = draw_boxes(blank(), [BOX], ["cat"])
        one, two = (draw_boxes(blank(), [BOX], ["cat"], [score]) for score in (0.9, 0.2))
        assert len({without.tobytes(), one.tobytes(), two.tobytes()}) == 3

    @pytest.mark.parametrize(
        "box",
        [(-50, -50, 900, 900), (590, 390, 700, 500), (700, 500, 800, 600), (50, 50, 50, 50)],
        ids=["around everything", "out of the corner", "outside", "empty"],
    )
    def test_any_box_can_be_drawn(self, box):
        canvas = draw_boxes(blank(), [box], ["a name that is longer than the space beside it"])
        assert colored(canvas, GRAY).any() and not colored(canvas, GRAY).all()

    @pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
    def test_any_mode_becomes_rgb(self, mode):
        assert draw_boxes(blank(mode=mode), [BOX], ["cat"]).mode == "RGB"

    def test_no_boxes(self):
        assert draw_boxes(blank(), [], [], []).tobytes() == blank().tobytes()

    @pytest.mark.parametrize(
        ("labels", "scores"), [([], None), (["cat"], []), (["a", "b"], [1, 1])]
    )
    def test_lengths_must_agree(self, labels, scores):
        with pytest.raises(ValueError, match=r"as boxes \(1\)"):
            draw_boxes(blank(), [BOX], labels, scores)

    def test_labels_of_equal_boxes_do_not_overlap(self):
        names = ["one", "two", "three"]
        canvas = draw_boxes(blank(), [BOX] * 3, names)
        grounds = [colored(canvas, class_color(name))[:, 105:115].sum() for name in names]
        assert min(grounds) > 80

    def test_the_last_of_crowded_names_is_on_top(self):
        names = ["one", "two", "three", "four", "five"]
        canvas = draw_boxes(blank(), [BOX] * 5, names)
        assert colored(canvas, class_color("five"))[85:95, 102:115].any()


def mask_of(*boxes, width=600, height=400):
    mask = np.zeros((height, width), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


class TestMasks:
    LEFT, RIGHT = (100, 100, 200, 250), (200, 100, 300, 250)

    def middle(self, canvas, box):
        return canvas.getpixel(((box[0] + box[2]) // 2, (box[1] + box[3]) // 2))

    def test_the_image_shines_through(self):
        canvas = draw_boxes(blank(), [BOX], ["cat"], masks=[mask_of(BOX)])
        expected = (np.array(GRAY) + class_color("cat")) / 2
        assert self.middle(canvas, BOX) == pytest.approx(tuple(expected), abs=1)
        assert canvas.getpixel((50, 50)) == GRAY

    def test_touching_objects_of_a_class_differ_from_left_to_right(self):
        masks = np.stack([mask_of(self.RIGHT), mask_of(self.LEFT)]).astype(np.uint8)
        canvas = draw_boxes(blank(), [self.RIGHT, self.LEFT], ["cat", "cat"], [0.9, 0.8], masks)
        shades = [self.middle(canvas, box) for box in (self.LEFT, self.RIGHT)]
        for rank, shade in enumerate(shades):
            expected = (np.array(GRAY) + object_color("cat", rank)) / 2
            assert shade == pytest.approx(tuple(expected), abs=1)
        assert np.abs(np.subtract(*shades)).sum() > 30

    def test_masks_grow_with_small_images(self):
        mask = mask_of((20, 20, 40, 40), width=96, height=64)
        canvas = draw_boxes(blank(96, 64), [(0, 0, 95, 63)], ["cat"], masks=[mask])
        outline = colored(canvas, class_color("cat"))[50:-50, 50:-50].nonzero()
        assert [(a.min() + 50, a.max() + 51) for a in outline] == [(100, 200), (100, 200)]

    def test_an_empty_mask_shows_the_box_alone(self):
        with_mask = draw_boxes(blank(), [BOX], ["cat"], masks=[mask_of()])
        assert with_mask.tobytes() == draw_boxes(blank(), [BOX], ["cat"]).tobytes()

    def test_no_objects(self):
        canvas = draw_boxes(blank(), [], [], masks=np.zeros((0, 400, 600), dtype=bool))
        assert canvas.tobytes() == blank().tobytes()

    def test_sizes_and_lengths_must_agree(self):
        with pytest.raises(ValueError, match=r"as boxes \(1\), got 1 labels, 2 masks"):
            draw_boxes(blank(), [BOX], ["cat"], masks=[mask_of()] * 2)
        with pytest.raises(ValueError, match=r"mask 0 has shape \(600, 400\)"):
            draw_boxes(blank(), [BOX], ["cat"], masks=[mask_of().T])


class TestDashedBoxes:
    def edge(self, canvas):
        """Which pixels of the lower edge of BOX have the color of the class."""
        return colored(canvas, class_color("cat"))[249, 100:300]

    def test_a_dashed_line_has_gaps(self):
        solid, dashed = (draw_boxes(blank(), [BOX], ["cat"], dashed=[d]) for d in (False, True))
        assert self.edge(solid).all()
        assert 0.4 < self.edge(dashed).mean() < 0.6

    def test_its_label_is_marked(self):
        marked, plain = (draw_boxes(blank(), [BOX], [n], dashed=[False]) for n in ("! cat", "cat"))
        dashed = draw_boxes(blank(), [BOX], ["cat"], dashed=[True])
        size = [
            colored(c, class_color(n))[80:95].any(axis=0).sum()
            for c, n in ((dashed, "cat"), (marked, "! cat"), (plain, "cat"))
        ]
        assert size[0] == size[1] > size[2]

    def test_any_dashed_box_can_be_drawn(self):
        boxes = [(-50, -50, 900, 900), (700, 500, 800, 600), (50, 50, 50, 50), (10, 10, 11, 390)]
        draw_boxes(blank(), boxes, ["cat"] * 4, dashed=[True] * 4)

    def test_marks_must_have_the_length_of_the_boxes(self):
        with pytest.raises(ValueError, match="2 dashed"):
            draw_boxes(blank(), [BOX], ["cat"], dashed=[True, False])


def test_labels_of_a_crowd_do_not_overlap():
    generator = np.random.default_rng(0)
    corners = generator.uniform(100, 300, (40, 2))
    outlines = [(x, y, x + 60, y + 40) for x, y in corners]
    places = list(_place_labels(outlines, [(70, 18)] * 40, (600, 400)))
    shown = [place for place in places if place is not None]
    assert 10 < len(shown) < 40
    for index, a in enumerate(shown):
        assert a[0] >= 0 and a[1] >= 0 and a[2] <= 600 and a[3] <= 400
        assert not any(_overlap(a, b) for b in shown[:index])
