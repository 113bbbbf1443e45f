import contextlib
import io

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from util.visualize.detections import (
    Panel,
    _missed_and_false,
    _page,
    draw_panels,
    save_detection_samples,
)
from util.visualize.drawing import class_color

GRAY = (128, 128, 128)
BOX = (100, 100, 300, 250)


def blank(width=600, height=400, mode="RGB"):
    return Image.new("RGB", (width, height), GRAY).convert(mode)


def colored(canvas, color):
    return (np.asarray(canvas) == color).all(axis=-1)


class TestContactSheet:
    def panel(self, width=600, height=400, labels=("cat",), caption="caption"):
        return Panel(blank(width, height), [BOX] * len(labels), labels, None, caption)

    def test_ground_truth_is_left_and_detections_are_right(self):
        sheet = draw_panels([(self.panel(labels=("cat",)), self.panel(labels=("dog",)))])
        halves = [sheet.crop((0, 0, sheet.width // 2, sheet.height))]
        halves.append(sheet.crop((sheet.width // 2, 0, sheet.width, sheet.height)))
        for half, here, there in zip(halves, ("cat", "dog"), ("dog", "cat"), strict=True):
            assert colored(half, class_color(here)).any()
            assert not colored(half, class_color(there)).any()

    def test_rows_of_any_size_share_a_sheet_without_overlap(self):
        sizes = [(2000, 1000), (60, 90), (640, 480)]
        rows = [(self.panel(*size, labels=()), self.panel(*size, labels=())) for size in sizes]
        sheet = draw_panels(rows)
        shown = sum(w * h for w, h in [(640, 320), (60 * 5, 90 * 5), (640, 480)])
        assert colored(sheet, GRAY).sum() == 2 * shown
        assert sheet.width < 1400

    def test_a_caption_longer_than_the_image_is_not_cut(self):
        short, long = (
            draw_panels([(self.panel(caption=text), self.panel())]) for text in ("x", "x" * 200)
        )
        assert long.width > 1.5 * short.width

    def test_needs_a_row(self):
        with pytest.raises(ValueError, match="at least one row"):
            draw_panels([])


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

        def read_image(image_folder, row):
            opened.append(row["id"])
            return Image.open(image_folder / row["file_name"])

        save_detection_samples(coco, detections, folder, folder / name, read_image, **options)
        return opened, folder / name

    def test_shows_both_sides_above_the_threshold(self, coco, tmp_path):
        detections = [self.entry(3), self.entry(3, score=0.4, category_id=77)]
        opened, path = self.save(coco, tmp_path, detections)
        with Image.open(path) as sheet:
            shown = {n: colored(sheet.convert("RGB"), class_color(n)).any() for n in ["cat", "2"]}
            assert shown == {"cat": True, "2": True}
            assert not colored(sheet.convert("RGB"), class_color("class 77")).any()
        assert opened == [3]

    def test_images_are_spread_over_images_with_objects(self, coco, tmp_path):
        detections = [self.entry(i) for i in coco.imgs]
        assert self.save(coco, tmp_path, detections, num_images=3)[0] == [2, 4, 6]
        assert self.save(coco, tmp_path, detections)[0] == [2, 3, 4, 5, 6, 7]

    def test_without_detections_the_ground_truth_is_shown(self, coco, tmp_path):
        assert len(self.save(coco, tmp_path, [], num_images=2)[0]) == 2

    def test_scores_below_the_threshold_are_reported(self, coco, tmp_path):
        _, told = self.save(coco, tmp_path, [self.entry(3, score=0.3)], "low.png")
        _, none = self.save(coco, tmp_path, [self.entry(3, score=0.1)], "lower.png")
        assert told.read_bytes() != none.read_bytes()

    def test_the_suffix_determines_the_format(self, coco, tmp_path):
        _, path = self.save(coco, tmp_path, [self.entry(3)], "sheet.JPG")
        with Image.open(path) as sheet:
            assert sheet.format == "JPEG"

    def test_without_images_nothing_is_written(self, tmp_path):
        coco = COCO()
        _, path = self.save(coco, tmp_path, [])
        assert not path.exists()


SQUARE = np.zeros((300, 400), dtype=np.uint8)
SQUARE[100:190, 200:290] = 1


def compressed():
    return coco_mask.encode(np.asfortranarray(SQUARE))


SEGMENTATIONS = {
    "bytes": compressed,
    "text": lambda: {"size": [300, 400], "counts": compressed()["counts"].decode()},
    "uncompressed": lambda: {
        "size": [300, 400],
        "counts": [200 * 300 + 100, *[90, 210] * 89, 90, 110 * 300 + 110],
    },
    "polygons": lambda: [[200, 100, 290, 100, 290, 190, 200, 190]],
}


class TestSaveDetectionSamplesWithMasks:
    """The square fills all of its box, so that its middle is tinted if it was decoded."""

    def sheet(self, folder, annotation, entry, masks=True):
        coco = COCO()
        common = {"image_id": 1, "category_id": 1, "bbox": [200, 100, 90, 90]}
        coco.dataset = {
            "images": [{"id": 1, "file_name": "1.png", "height": 300, "width": 400}],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [{"id": 1, **common, **annotation}],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        blank(400, 300).save(folder / "1.png")
        detections = [{**common, "score": 0.9, **entry}]

        def read_image(image_folder, row):
            return Image.open(image_folder / row["file_name"])

        path = folder / "sheet.png"
        save_detection_samples(coco, detections, folder, path, read_image, masks=masks)
        with Image.open(folder / "sheet.png") as sheet:
            return np.asarray(sheet.convert("RGB"))

    def tinted(self, sheet):
        """Numbers of tinted pixels in the left and right image."""
        color = (np.array(GRAY) + class_color("cat")) / 2
        is_tinted = (np.abs(sheet - color) <= 1).all(axis=-1)
        return is_tinted[:, :408].sum(), is_tinted[:, 408:].sum()

    @pytest.mark.parametrize("kind", SEGMENTATIONS)
    def test_every_coding_is_drawn_on_both_sides(self, tmp_path, kind):
        field = {"segmentation": SEGMENTATIONS[kind]()}
        left, right = self.tinted(self.sheet(tmp_path, field, field))
        assert left == pytest.approx(86 * 86, rel=0.02) == right

    @pytest.mark.parametrize("field", [{}, {"segmentation": []}, {"segmentation": [[1, 2, 3, 4]]}])
    def test_an_object_without_a_mask_shows_its_box(self, tmp_path, field):
        sheet = self.sheet(tmp_path, field, field)
        assert self.tinted(sheet) == (0, 0)
        assert colored(sheet[:, :408], class_color("cat")).any()
        assert colored(sheet[:, 408:], class_color("cat")).any()

    def test_masks_are_drawn_on_request_only(self, tmp_path):
        field = {"segmentation": SEGMENTATIONS["text"]()}
        assert self.tinted(self.sheet(tmp_path, field, field, masks=False)) == (0, 0)


def test_large_masks_shrink_with_their_image():
    mask = np.zeros((960, 1280), dtype=bool)
    mask[200:600, 200:600] = True
    panel = Panel(blank(1280, 960), [(200, 200, 600, 600)], ["cat"], None, "", iter([mask]))
    sheet = np.asarray(draw_panels([(panel, panel._replace(masks=[~mask]))]))
    inside, outside = sheet[30 + 200, 8 + 200], sheet[30 + 20, 8 + 20]
    assert not (inside == GRAY).all() and (outside == GRAY).all()
    assert (sheet[30 + 200, 16 + 640 + 200] == GRAY).all()


def test_a_class_keeps_its_color():
    assert class_color("cat") == class_color("cat") != class_color("dog")
    assert all(0 <= channel <= 255 for channel in class_color("zebra"))


class TestMissedAndFalse:
    def found(self, category_id=1, box=(0, 0, 10, 10)):
        return {"category_id": category_id, "bbox": list(box)}

    @pytest.mark.parametrize(
        ("detections", "missed", "false"),
        [
            ([], [True], []),
            ([{}], [False], [False]),
            ([{}, {}], [False], [True, False]),  # the last has the highest score
            ([{"category_id": 2}], [True], [True]),
            ([{"box": (6, 0, 10, 10)}], [True], [True]),
        ],
    )
    def test_by_hand(self, detections, missed, false):
        shown = [self.found(**one) for one in detections]
        assert _missed_and_false([self.found()], shown) == (missed, false)

    def test_crowds_are_neither_missed_nor_make_detections_false(self):
        crowd = {"category_id": 1, "bbox": [0, 0, 100, 100], "iscrowd": 1}
        assert _missed_and_false([crowd], []) == ([False], [])
        shown = [self.found(), self.found(2)]
        assert _missed_and_false([crowd], shown) == ([False], [False, True])


@pytest.mark.parametrize(("number", "columns"), [(1, 1), (2, 1), (3, 2), (8, 2)])
def test_a_page_has_up_to_two_pairs_per_row(number, columns):
    page = _page([Image.new("RGB", (100, 50))] * number)
    assert page.width == columns * 108 + 8 and page.height == -(-number // columns) * 58 + 8
