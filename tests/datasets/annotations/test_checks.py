"""Each mistake in an annotation file is reported once, with file, image id and annotation id."""

import copy
import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from datasets.annotations.checks import check_annotations, check_image_folder
from datasets.annotations.compact.instances import Instances
from datasets.annotations.start_checks import warn_about_boxes
from util.errors import UserError
from util.text import singular


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("1.jpg", "sub/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def good_file() -> dict[str, Any]:
    triangle = [[1, 1, 9, 1, 9, 9]]
    first = {"id": 11, "image_id": 1, "category_id": 0, "bbox": [1, 1, 8, 8.5], "iscrowd": 0}
    rle = {"counts": [4800], "size": [60, 80]}
    return {
        "images": [
            {"id": 1, "file_name": "1.jpg", "width": 80, "height": 60},
            {"id": 2, "file_name": "sub/2.jpg", "width": 80, "height": 60},
        ],
        "categories": [{"id": 0, "name": "cat"}, {"id": 7}],
        "annotations": [
            first | {"segmentation": triangle, "area": 30, "keypoints": [1, 2, 2]},
            first | {"id": 12, "image_id": 2, "category_id": 7, "segmentation": rle, "area": None},
        ],
    }


def complaint(data: dict[str, Any], folder: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        check_annotations(data, "file.json", folder, **options)
    message = str(caught.value)
    assert "file.json" in message
    assert "\n" not in message
    return message


def test_good_file_passes_unchanged(folder):
    data = good_file()
    check_annotations(data, "file.json", folder, training=True, num_classes=8, masks=True)
    assert data == good_file()


def test_optional_fields_may_be_missing_without_masks(folder):
    data = good_file()
    for annotation in data["annotations"]:
        for field in ("area", "iscrowd", "segmentation", "keypoints"):
            annotation.pop(field, None)
    for image in data["images"]:
        del image["width"], image["height"]
    check_annotations(data, "file.json", folder, training=True)


@pytest.mark.parametrize(
    ("table", "field", "value", "says"),
    [
        ("annotations", "category_id", "cat", "category_id 'cat'"),
        ("annotations", "category_id", -1, "category_id -1"),
        ("annotations", "category_id", 1.0, "category_id 1.0"),
        ("annotations", "category_id", True, "category_id True"),
        ("annotations", "category_id", 3, "not among the categories"),
        ("annotations", "image_id", 99, "not among the images"),
        ("annotations", "image_id", "1", "invalid image_id"),
        ("annotations", "bbox", [1, 2, 3], "four finite numbers"),
        ("annotations", "bbox", [1, 2, 3, math.nan], "nan"),
        ("annotations", "bbox", [1, 2, 3, math.inf], "inf"),
        ("annotations", "bbox", [1, 2, 3, "4"], "four finite numbers"),
        ("annotations", "bbox", [1, 2, 3, None], "four finite numbers"),
        ("annotations", "bbox", 5, "four finite numbers"),
        ("annotations", "area", "large", "invalid area"),
        ("annotations", "area", math.nan, "invalid area"),
        ("annotations", "iscrowd", 2, "invalid iscrowd"),
        ("annotations", "keypoints", [1, 2], "invalid keypoints"),
        ("annotations", "id", 12, "have the same id"),
        ("annotations", "id", "a", "invalid id"),
        ("images", "id", 2, "have the same id"),
        ("images", "id", "one", "invalid id"),
        ("images", "file_name", "gone.jpg", "no file in"),
        ("images", "file_name", "nowhere/1.jpg", "nowhere/1.jpg"),
        ("images", "file_name", "1.jpg/1.jpg", "no file in"),
        ("images", "file_name", 5, "invalid file_name"),
        ("categories", "id", -1, "invalid id"),
        ("categories", "id", "0", "invalid id"),
        ("categories", "id", 7, "have the same id"),
    ],
)
def test_wrong_value_is_named(folder, table, field, value, says):
    data = good_file()
    data[table][0][field] = value
    message = complaint(data, folder)
    assert says in message
    row = data[table][0]
    name = {"annotations": "annotation id", "images": "image id", "categories": "category id"}
    assert f"{name[table]} {row['id']!r}" in message
    if table == "annotations":
        assert f"of image id {row['image_id']!r}" in message


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ("annotations", "id"),
        ("annotations", "image_id"),
        ("annotations", "category_id"),
        ("annotations", "bbox"),
        ("images", "id"),
        ("images", "file_name"),
        ("categories", "id"),
    ],
)
@pytest.mark.parametrize("null", [False, True])
def test_missing_field_is_named(folder, table, field, null):
    data = good_file()
    if null:
        data[table][1][field] = None
    else:
        del data[table][1][field]
    assert f"1 {singular(table)} has no {field}: " in complaint(data, folder)


@pytest.mark.parametrize(
    ("table", "field", "value", "says"),
    [
        ("annotations", "segmentation", [], "no usable segmentation"),
        ("annotations", "segmentation", None, "no usable segmentation"),
        ("annotations", "segmentation", [[1, 2, 3, 4]], "no usable segmentation"),
        ("annotations", "segmentation", {"counts": [100], "size": [10, 10]}, "RLE whose size"),
        ("images", "width", None, "has no width"),
        ("images", "height", 0, "invalid height"),
    ],
)
def test_masks_need_more(folder, table, field, value, says):
    data = good_file()
    data[table][0][field] = value
    assert says in complaint(data, folder, masks=True)
    check_annotations(data, "file.json", folder)


def test_explicit_number_of_classes_is_a_limit(folder):
    data = good_file()
    message = complaint(data, folder, num_classes=7)
    assert "--num_classes 7" in message
    assert "annotation id 12 of image id 2 (category_id 7)" in message


def test_empty_splits(folder):
    data = good_file() | {"annotations": []}
    assert "no annotations" in complaint(data, folder, training=True)
    check_annotations(data, "file.json", folder)
    assert "no images" in complaint(data | {"images": []}, folder)


def test_all_problems_come_in_one_line_with_counts(folder):
    data = good_file()
    template = data["annotations"][0]
    data["annotations"] = [
        copy.deepcopy(template) | {"id": number, "category_id": "x"} for number in range(10)
    ]
    data["images"][1]["file_name"] = "gone.jpg"
    message = complaint(data, folder)
    assert "10 annotations have an invalid category_id" in message
    assert "annotation id 2 of" in message
    assert "annotation id 3 of" not in message
    assert "and 7 more" in message
    assert "gone.jpg" in message


@pytest.mark.parametrize(("training", "flag"), [(True, "--train_images"), (False, "--val_images")])
def test_images_elsewhere_are_reported_with_the_flag(folder, training, flag):
    (folder / "empty").mkdir()
    message = complaint(good_file(), folder / "empty", training=training)
    assert message.endswith(f"the files exist in {folder}: use {flag} {folder}")


def test_missing_image_folder(folder):
    check_image_folder(folder, "train")
    with pytest.raises(UserError, match=r"gone does not exist.*--train_images"):
        check_image_folder(folder / "gone", "train")
    (folder / "a.json").touch()
    with pytest.raises(UserError, match=r"a.json is a file.*--val_images, .*--val_ann"):
        check_image_folder(folder / "a.json", "val")


def test_boxes_without_area_in_the_image_are_counted_in_one_line(caplog):
    data = good_file()
    template = data["annotations"][0]
    boxes = [[1, 1, 5, 5], [1, 1, 0, 5], [1, 1, 5, -1], [80, 0, 5, 5], [-5, 0, 5, 5], [-1, 0, 5, 5]]
    data["annotations"] = [
        template | {"id": number, "bbox": box} for number, box in enumerate(boxes)
    ]
    before = json.dumps(data)
    with caplog.at_level(logging.WARNING):
        warn_about_boxes(Instances(data), "file.json")
    assert len(caplog.records) == 1
    text = caplog.text
    assert "file.json: training ignores 2 boxes of non-positive size and 2 boxes outside" in text
    assert "annotation id 1 of image id 1" in text
    assert "and 1 more" in text
    assert json.dumps(data) == before


@pytest.mark.parametrize("boxes", [[], [[0, 0, 500, 500]]])
def test_nothing_to_warn_about(caplog, boxes):
    row = {"id": 1, "image_id": 1, "category_id": 7}
    data = good_file() | {"annotations": [row | {"bbox": box} for box in boxes]}
    warn_about_boxes(Instances(data), "file.json")
    assert not caplog.records


@pytest.mark.parametrize("category_id", [5, 100_001, 10**9, 2**63 - 1])
def test_category_ids_of_any_size(folder, category_id):
    data = good_file()
    data["categories"][1]["id"] = data["annotations"][1]["category_id"] = category_id
    check_annotations(data, "x.json", folder)


@pytest.mark.parametrize("category_id", [-1, 2**63, 1.0, True, [1]])
def test_category_ids_that_are_refused(folder, category_id):
    data = good_file()
    data["categories"][1]["id"] = data["annotations"][1]["category_id"] = category_id
    message = complaint(data, folder)
    assert "invalid id (must be a 64-bit integer of at least 0, or a string)" in message
    assert "1 annotation has an invalid category_id" in message


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("bbox", [0, 0, 10**400, 5], "four finite numbers"),
        ("bbox", [0, 0, 1e308, 5], "at most 1e+09): annotation id 11 of image id 1"),
        ("bbox", [-1e308, 0, 5, 5], "at most 1e+09"),
        ("area", 1e300, "invalid area"),
        ("area", 10**400, "invalid area"),
        ("keypoints", [2**70, 0, 2], "invalid keypoints"),
        ("id", 2**63, "invalid id (must be a 64-bit integer)"),
        ("image_id", 2**70, "invalid image_id"),
    ],
)
def test_numbers_that_no_image_has(folder, field, value, says):
    data = good_file()
    data["annotations"][0][field] = value
    assert says in complaint(data, folder)


def test_negative_extents_and_areas_are_read(folder):
    data = good_file()
    data["annotations"][0] |= {"bbox": [50, 50, -20, -20], "area": -400}
    check_annotations(data, "file.json", folder)


@pytest.mark.parametrize(
    ("segmentation", "says"),
    [
        ({"counts": [10**9, 0], "size": [10**9, 10**9]}, "RLE whose counts"),
        ({"counts": [10**18], "size": [10**9, 10**9]}, "RLE whose size is not"),
        ({"counts": [4799], "size": [60, 80]}, "RLE whose counts"),
        ({"counts": [-1, 4801], "size": [60, 80]}, "RLE whose counts"),
        ({"counts": "ooooo", "size": [60, 80]}, "RLE whose counts"),
        ({}, "RLE whose counts"),
        ([[0, 0, 1e9, 0, 5, 5]], "coordinates exceed 4000000 pixels"),
        ([[0, 0, 9, 0, 5, 5], [0, 0, 1e308, 0, 5, 5]], "outline or coordinates exceed"),
    ],
)
def test_segmentations_that_would_take_all_memory_or_crash(folder, segmentation, says):
    data = good_file()
    data["annotations"][0]["segmentation"] = segmentation
    message = complaint(data, folder, masks=True)
    assert says in message
    assert "annotation id 11 of image id 1" in message


def test_sizes_that_would_take_all_memory(folder):
    data = good_file()
    data["images"][0] |= {"width": 10**9, "height": 10**9}
    assert "invalid width (must be an integer from 1 to 65535)" in complaint(
        data, folder, masks=True
    )
    check_annotations(data, "file.json", folder)  # without masks nobody asks for the size
    warn_about_boxes(Instances(data), "file.json")
    data = good_file()
    data["images"][0] |= {"width": 13_000, "height": 13_000}
    data["annotations"] = [data["annotations"][0] | {"id": number} for number in range(26)]
    assert "pixels in total" in complaint(data, folder, masks=True)


def test_a_deeply_nested_value_is_reported(folder):
    data = good_file()
    data["images"][0]["file_name"] = json.loads("[" * 900 + "]" * 900)
    assert "file_name [[[[...]]]]" in complaint(data, folder)


def test_numbers_beyond_floats_are_no_boxes(folder):
    data = good_file()
    data["annotations"][0]["bbox"][0] = 10**400
    assert "annotation" in complaint(data, folder)


def test_crowds_alone_cannot_be_trained_on(folder):
    data = good_file()
    for annotation in data["annotations"]:
        annotation["iscrowd"] = 1
    check_annotations(data, "file.json", folder)
    assert "crowd" in complaint(data, folder, training=True)
