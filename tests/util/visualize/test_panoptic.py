import numpy as np
import pytest
from PIL import Image

from util.visualize.drawing import class_color, object_color, stuff_color
from util.visualize.panoptic import PanopticSample, draw_panoptic, save_panoptic_samples

GRAY = (128, 128, 128)
NAMES = {1: "cat", 2: "grass"}
VOID, CAT, OTHER_CAT, GRASS = 0, 70_000, 5, 256


def blank(width=600, height=400):
    return Image.new("RGB", (width, height), GRAY)


def id_map(width=600, height=400):
    """Two cats side by side above grass, void at the top."""
    ids = np.full((height, width), VOID)
    ids[height // 4 :, : width // 2] = CAT
    ids[height // 4 :, width // 2 :] = OTHER_CAT
    ids[3 * height // 4 :] = GRASS
    return ids


def segments(**more):
    return [
        {"id": GRASS, "category_id": 2, "isthing": 0, **more},
        {"id": OTHER_CAT, "category_id": 1, "isthing": 1, **more},
        {"id": CAT, "category_id": 1, "isthing": 1, **more},
    ]


def tint(color):
    return pytest.approx(tuple((np.array(GRAY) + color) / 2), abs=1)


def colored(canvas, color):
    return (np.asarray(canvas) == color).all(axis=-1)


class TestDrawPanoptic:
    def test_each_segment_has_its_tint_and_void_none(self):
        canvas = draw_panoptic(blank(), id_map(), segments(), NAMES)
        assert canvas.getpixel((50, 120)) == tint(class_color("cat"))
        assert canvas.getpixel((550, 120)) == tint(object_color("cat", 1))
        assert canvas.getpixel((50, 380)) == tint(stuff_color("grass"))
        assert colored(canvas, GRAY)[:95].all()

    def test_borders_are_drawn_between_segments(self):
        canvas = np.asarray(draw_panoptic(blank(), id_map(), segments(), NAMES))
        line = np.flatnonzero((canvas[120] < 50).all(axis=-1))
        assert line.tolist() == [299, 300]

    @pytest.mark.parametrize(
        ("color", "rows", "columns"),
        [
            (class_color("cat"), (100, 300), (0, 300)),
            (object_color("cat", 1), (100, 300), (300, 600)),
            (stuff_color("grass"), (300, 400), (0, 600)),
        ],
        ids=["cat", "other cat", "grass"],
    )
    def test_names_stand_in_the_middle_of_their_segments(self, color, rows, columns):
        canvas = draw_panoptic(blank(), id_map(), segments(), NAMES)
        y, x = colored(canvas, color).nonzero()
        assert (y.min() + y.max()) / 2 == pytest.approx(sum(rows) / 2, abs=12)
        assert (x.min() + x.max()) / 2 == pytest.approx(sum(columns) / 2, abs=12)

    def test_scores_are_shown_where_there_are_any(self):
        images = [
            draw_panoptic(blank(), id_map(), segments(**score), NAMES).tobytes()
            for score in ({}, {"score": 0.9}, {"score": 0.2})
        ]
        assert len(set(images)) == 3

    def test_small_segments_go_without_a_name(self):
        ids = np.full((400, 600), GRASS)
        ids[10:20, 10:20] = CAT
        canvas = draw_panoptic(blank(), ids, segments(), NAMES)
        assert not colored(canvas, class_color("cat")).any()
        assert colored(canvas, stuff_color("grass")).any()

    def test_the_first_id_may_be_zero(self):
        ids = np.zeros((400, 600), dtype=np.int32)
        canvas = draw_panoptic(blank(), ids, [{"id": 0, "category_id": 1}], NAMES)
        assert canvas.getpixel((0, 0)) == tint(class_color("cat"))

    def test_an_image_without_segments_does_not_change(self):
        assert draw_panoptic(blank(), id_map(), [], NAMES).tobytes() == blank().tobytes()

    def test_segments_without_pixels_and_classes_without_names(self):
        listed = [*segments(), {"id": 9, "category_id": 77, "isthing": True}]
        ids = id_map()
        expected = draw_panoptic(blank(), ids, segments(), NAMES)
        assert draw_panoptic(blank(), ids, listed, NAMES).tobytes() == expected.tobytes()
        ids[:100] = 9
        canvas = draw_panoptic(blank(), ids, listed, NAMES)
        assert canvas.getpixel((0, 0)) == tint(class_color("class 77"))

    def test_small_images_grow_by_a_whole_factor(self):
        canvas = draw_panoptic(blank(96, 64), id_map(96, 64), segments(), NAMES)
        assert canvas.size == (480, 320)
        assert canvas.getpixel((5, 5 * 16 + 5)) == tint(class_color("cat"))
        assert colored(canvas, GRAY)[: 5 * 16 - 2].all()

    def test_arguments_are_not_changed(self):
        image, ids = blank(), id_map()
        draw_panoptic(image, ids, segments(), NAMES)
        assert image.tobytes() == blank().tobytes() and (ids == id_map()).all()

    def test_sizes_must_agree(self):
        with pytest.raises(ValueError, match=r"map of 400 x 600 .* got 600 x 400"):
            draw_panoptic(blank(), id_map().T, segments(), NAMES)


class TestSavePanopticSamples:
    def sample(self, read_image=blank, predicted=()):
        maps = id_map(), segments(), id_map(), list(predicted)
        return PanopticSample(read_image, *maps, NAMES, "image 7")

    def read(self, path):
        with Image.open(path) as sheet:
            return sheet.convert("RGB")

    def test_truth_is_left_and_the_prediction_right(self, tmp_path):
        save_panoptic_samples([self.sample()], tmp_path / "sheet.png")
        sheet = self.read(tmp_path / "sheet.png")
        halves = [colored(sheet, class_color("cat"))[:, part] for part in np.s_[:612, 612:]]
        assert halves[0].any() and not halves[1].any()
        assert colored(sheet, GRAY)[30:430, 616:1216].all()

    def test_images_are_read_in_their_turn(self, tmp_path):
        turns = []

        def samples():
            for index in range(3):
                turns.append(f"sample {index}")
                yield self.sample(lambda index=index: turns.append(f"read {index}") or blank())

        save_panoptic_samples(samples(), tmp_path / "sheet.png")
        assert turns == [f"{what} {i}" for i in range(3) for what in ("sample", "read")]

    def test_large_images_shrink_with_their_maps(self, tmp_path):
        save_panoptic_samples(
            [self.sample(lambda: blank(1200, 800), segments())], tmp_path / "sheet.png"
        )
        sheet = self.read(tmp_path / "sheet.png")
        assert sheet.width < 1400
        bottom_left = sheet.getpixel((12, sheet.height - 20))
        assert bottom_left == tint(stuff_color("grass"))

    def test_without_samples_nothing_is_written(self, tmp_path):
        save_panoptic_samples(iter([]), tmp_path / "sheet.png")
        assert not list(tmp_path.iterdir())
