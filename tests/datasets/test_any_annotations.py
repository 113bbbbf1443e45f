"""Whatever the tables of an annotation file hold, it is read to the end or refused in one line."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from PIL import Image

from datasets.check.coco import Settings, check_coco_split
from datasets.check.report import Report, as_json, as_text
from datasets.check.split_statistics import Split
from datasets.coco import CocoDetection, make_coco_transforms
from datasets.coco_panoptic import CocoPanoptic
from tests.datasets.json_strategies import edited, edits, wild_files, write_json
from tests.datasets.panoptic_cases import HEIGHT, WIDTH, write_panoptic
from util.errors import UserError

FIELDS = ["id", "file_name", "width", "height", "image_id", "category_id", "bbox", "area"]
FIELDS += ["iscrowd", "keypoints", "segmentation", "name"]
PANOPTIC_FIELDS = ["id", "file_name", "width", "height", "image_id", "segments_info", "isthing"]

GOOD: dict[str, Any] = {
    "images": [
        {"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT}
        for number in (1, 2)
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 8, 6], "keypoints": [3, 4, 2]}
        | {"segmentation": [[1, 2, 9, 2, 9, 8]], "area": 24.5, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 4, "bbox": [0, 0, 5.5, 5], "area": None}
        | {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [50, 60, HEIGHT * WIDTH - 110]}},
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 4}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    for number in (1, 2):
        Image.new("RGB", (WIDTH, HEIGHT), (90, number, 0)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def panoptic(tmp_path_factory):
    return write_panoptic(tmp_path_factory.mktemp("panoptic"))


def refusal_of(read) -> str | None:
    """The message where reading is refused; any other exception goes on."""
    try:
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")):
            read()
    except UserError as error:
        assert "\n" not in error.one_line()
        error.one_line().encode("utf-8", "backslashreplace")
        return str(error)
    return None


def read_instances(folder: Path, data: Any, masks: bool, training: bool) -> str | None:
    """Write, load and read everything."""
    write_json(folder / "any.json", data)

    def read() -> None:
        dataset = CocoDetection(
            folder, folder / "any.json", None, return_masks=masks, training=training
        )
        print(dataset.categories)
        transform = make_coco_transforms("val", [20], 30)
        for index in range(len(dataset)):
            image, target = transform(*dataset[index])
            assert image.isfinite().all()
            assert target["boxes"].isfinite().all()

    return refusal_of(read)


def names_the_place(message: str, file_name: str) -> bool:
    return file_name in message or "image id" in message


@hypothesis.given(edits(FIELDS), st.booleans(), st.booleans())
def test_instances_with_some_values_replaced(folder, replacements, masks, training):
    message = read_instances(folder, edited(GOOD, replacements), masks, training)
    assert message is None or names_the_place(message, "any.json")
    if not replacements:
        assert message is None


@hypothesis.given(wild_files(FIELDS), st.booleans(), st.booleans())
def test_instances_of_any_kind(folder, data, masks, training):
    message = read_instances(folder, data, masks, training)
    assert message is None or names_the_place(message, "any.json")


@hypothesis.given(edits(FIELDS), st.booleans())
def test_the_checker_has_a_report_for_everything(folder, replacements, masks):
    write_json(folder / "any.json", edited(GOOD, replacements))
    settings = Settings(masks=masks, num_workers=0, num_pictures=2)
    stats = check_coco_split(Split("train", folder, folder / "any.json"), settings).stats
    report = Report([stats], [], 100)
    as_text(report).encode()
    json.dumps(as_json(report), allow_nan=False).encode()


def read_panoptic(root: Path, data: Any) -> str | None:
    """Write, load and read everything."""
    write_json(root / "any.json", data)

    def read() -> None:
        dataset = CocoPanoptic(root / "val2017", root / "panoptic_val2017", root / "any.json")
        print(dataset.categories, dataset.is_thing)
        for index in range(len(dataset)):
            dataset[index]

    return refusal_of(read)


def good_panoptic(root: Path) -> dict[str, Any]:
    return json.loads((root / "annotations" / "panoptic_val2017.json").read_text())


@hypothesis.given(replacements=edits(PANOPTIC_FIELDS))
def test_panoptic_files_with_some_values_replaced(panoptic, replacements):
    message = read_panoptic(panoptic, edited(good_panoptic(panoptic), replacements))
    assert message is None or names_the_place(message, "any.json")
    if not replacements:
        assert message is None


@hypothesis.given(replacements=edits(["id", "category_id", "iscrowd", "area", "bbox"]))
def test_panoptic_segments_with_some_values_replaced(panoptic, replacements):
    data = good_panoptic(panoptic)
    for _, index, field, value in replacements:
        segments = data["annotations"][index % 2]["segments_info"]
        segments[index // 2 % len(segments)][field] = value
    message = read_panoptic(panoptic, data)
    assert message is None or names_the_place(message, "any.json")


@hypothesis.given(data=wild_files(PANOPTIC_FIELDS))
def test_panoptic_files_of_any_kind(panoptic, data):
    message = read_panoptic(panoptic, data)
    assert message is None or names_the_place(message, "any.json")
