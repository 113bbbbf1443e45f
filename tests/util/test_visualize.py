import contextlib
import io

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from util.visualize import (
    Panel,
    class_colour,
    detections_beside_ground_truth,
    draw_boxes,
    save_detection_samples,
)

GREY = (128, 128, 128)
BOX = (100, 100, 300, 250)


def blank(width=600, height=400, mode="RGB"):
    return Image.new("RGB", (width, height), GREY).convert(mode)


def coloured(picture, colour):
    return (np.asarray(picture) == colour).all(axis=-1)


class TestDrawBoxes:
    def test_the_outline_follows_the_box(self):
        picture = draw_boxes(blank(), [BOX], ["cat"])
        rows, columns = coloured(picture, class_colour("cat")).nonzero()
        assert (columns.min(), columns.max(), rows.max()) == (100, 300, 250)
        assert picture.getpixel((200, 200)) == GREY and picture.size == (600, 400)

    def test_the_image_given_stays_as_it_is(self):
        image = blank()
        draw_boxes(image, [BOX], ["cat"])
        assert image.tobytes() == blank().tobytes()

    def test_small_images_grow_by_a_whole_factor(self):
        picture = draw_boxes(blank(96, 64), [(10, 10, 40, 50)], ["cat"])
        assert picture.size == (96 * 5, 64 * 5)
        assert coloured(picture, class_colour("cat")).nonzero()[0].max() == 50 * 5

    def test_on_large_images_the_names_grow(self):
        def ground_of_name(size):
            picture = draw_boxes(
                blank(size, size), [(size / 4, size / 4, size / 2, size / 2)], ["i"]
            )
            return coloured(picture, class_colour("i"))[: size // 4 - 5].any(axis=1).sum()

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
        picture = draw_boxes(blank(), [box], ["a name that is longer than the space beside it"])
        assert coloured(picture, GREY).any() and not coloured(picture, GREY).all()

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


class TestContactSheet:
    def panel(self, width=600, height=400, labels=("cat",), caption="caption"):
        return Panel(blank(width, height), [BOX] * len(labels), labels, None, caption)

    def test_ground_truth_is_left_and_detections_are_right(self):
        sheet = detections_beside_ground_truth(
            [(self.panel(labels=("cat",)), self.panel(labels=("dog",)))]
        )
        halves = [sheet.crop((0, 0, sheet.width // 2, sheet.height))]
        halves.append(sheet.crop((sheet.width // 2, 0, sheet.width, sheet.height)))
        for half, here, there in zip(halves, ("cat", "dog"), ("dog", "cat"), strict=True):
            assert coloured(half, class_colour(here)).any()
            assert not coloured(half, class_colour(there)).any()

    def test_rows_of_any_size_share_a_sheet_without_overlap(self):
        sizes = [(2000, 1000), (60, 90), (640, 480)]
        rows = [(self.panel(*size, labels=()), self.panel(*size, labels=())) for size in sizes]
        sheet = detections_beside_ground_truth(rows)
        shown = sum(w * h for w, h in [(640, 320), (60 * 5, 90 * 5), (640, 480)])
        assert coloured(sheet, GREY).sum() == 2 * shown
        assert sheet.width < 1400

    def test_a_caption_longer_than_the_image_is_not_cut(self):
        short, long = (
            detections_beside_ground_truth([(self.panel(caption=text), self.panel())])
            for text in ("x", "x" * 200)
        )
        assert long.width > 1.5 * short.width

    def test_needs_a_row(self):
        with pytest.raises(ValueError, match="at least one row"):
            detections_beside_ground_truth([])


class TestSaveDetectionSamples:
    @pytest.fixture
    def coco(self, tmp_path):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i, "file_name": f"{i}.png"} for i in range(1, 8)],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2}],
            "annotations": [
                {"id": i, "image_id": i, "category_id": 1, "bbox": [50, 50, 100, 80]}
                for i in range(2, 8)
            ],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        for i in coco.imgs:
            blank(400, 300).save(tmp_path / f"{i}.png")
        return coco

    def entry(self, image_id, score=0.9, category_id=2):
        box = [200, 100, 90, 90]
        return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}

    def save(self, coco, folder, detections, name="sheet.png", **options):
        opened = []

        def read_image(path):
            opened.append(int(path.stem))
            return Image.open(path)

        save_detection_samples(
            coco, detections, folder, folder / name, read_image=read_image, **options
        )
        return opened, folder / name

    def test_shows_both_sides_above_the_threshold(self, coco, tmp_path):
        detections = [self.entry(3), self.entry(3, score=0.4, category_id=77)]
        opened, path = self.save(coco, tmp_path, detections)
        with Image.open(path) as sheet:
            shown = {n: coloured(sheet.convert("RGB"), class_colour(n)).any() for n in ["cat", "2"]}
            assert shown == {"cat": True, "2": True}
            assert not coloured(sheet.convert("RGB"), class_colour("class 77")).any()
        assert opened == [3]

    def test_images_are_spread_over_those_with_objects(self, coco, tmp_path):
        detections = [self.entry(i) for i in coco.imgs]
        assert self.save(coco, tmp_path, detections, num_images=3)[0] == [2, 4, 6]
        assert self.save(coco, tmp_path, detections)[0] == [2, 3, 4, 5, 6, 7]

    def test_without_detections_the_ground_truth_is_shown(self, coco, tmp_path):
        assert len(self.save(coco, tmp_path, [], num_images=2)[0]) == 2

    def test_scores_below_the_threshold_are_told(self, coco, tmp_path):
        _, told = self.save(coco, tmp_path, [self.entry(3, score=0.3)], "low.png")
        _, none = self.save(coco, tmp_path, [self.entry(3, score=0.1)], "lower.png")
        assert told.read_bytes() != none.read_bytes()

    def test_the_ending_says_the_format(self, coco, tmp_path):
        _, path = self.save(coco, tmp_path, [self.entry(3)], "sheet.JPG")
        with Image.open(path) as sheet:
            assert sheet.format == "JPEG"

    def test_without_images_nothing_is_written(self, tmp_path):
        coco = COCO()
        _, path = self.save(coco, tmp_path, [])
        assert not path.exists()


def test_a_class_keeps_its_colour():
    assert class_colour("cat") == class_colour("cat") != class_colour("dog")
    assert all(0 <= channel <= 255 for channel in class_colour("zebra"))
