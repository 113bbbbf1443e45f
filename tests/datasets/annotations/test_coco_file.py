"""Reading annotation files, and what optional fields mean."""

import json

import pytest

from datasets.annotations.coco_file import (
    LARGEST_COORDINATE,
    are_coordinates,
    box_area,
    category_names,
    fill_optional_fields,
    load_annotations,
)
from util.errors import UserError


def test_file_without_annotations_gets_an_empty_list(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": [], "categories": []}))
    assert load_annotations(path)["annotations"] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "is not JSON"),
        ("", "is empty"),
        ("[]", "not in COCO format"),
        ('{"images": [], "categories": {}}', '"categories" must be a list'),
        ('{"images": [3], "categories": []}', '"images" must be a list'),
        ('{"images": [], "annotations": null, "categories": []}', '"annotations" must be'),
        ('{"categories": []}', '"images" must be a list'),
    ],
)
def test_wrong_layout_is_named(tmp_path, content, message):
    path = tmp_path / "wrong.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_annotations(path)
    assert "wrong.json" in str(caught.value)


def test_detections_in_place_of_annotations(tmp_path):
    path = tmp_path / "found.json"
    path.write_text('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    with pytest.raises(UserError, match=r"found.json holds detections \(COCO results\)"):
        load_annotations(path)


def test_keys_of_another_format_are_named(tmp_path):
    path = tmp_path / "labelme.json"
    path.write_text('{"shapes": [], "imagePath": "a.jpg"}')
    with pytest.raises(UserError, match=r'"images" .*the file has only .*shapes.*imagePath'):
        load_annotations(path)
    path.write_text("{}")
    with pytest.raises(UserError, match="but the file is empty"):
        load_annotations(path)


def test_missing_file_names_the_flags(tmp_path):
    with pytest.raises(UserError, match=r"gone\.json cannot be read .*--train_ann"):
        load_annotations(tmp_path / "gone.json")
    with pytest.raises(UserError, match=r"is a folder without JSON.*--train_ann"):
        load_annotations(tmp_path)


@pytest.mark.parametrize(
    ("annotation", "area"),
    [
        ({"bbox": [1, 2, 3, 4]}, 12),
        ({"bbox": [1, 2, 3, 4], "area": None}, 12),
        ({"bbox": [1, 2, 3, 4], "area": 7.5}, 7.5),
        ({"bbox": [1, 2, 3, 4], "area": 0}, 0),
        ({"bbox": [1, 2, -3, -4]}, 0),
    ],
)
def test_area_is_the_given_one_or_the_box(annotation, area):
    assert box_area(annotation) == area


def test_only_missing_fields_are_filled():
    given = {"bbox": [0, 0, 2, 2], "area": 3, "iscrowd": 1}
    annotations = [dict(given), {"bbox": [0, 0, 2, 2], "iscrowd": None}]
    fill_optional_fields(annotations)
    assert annotations == [given, {"bbox": [0, 0, 2, 2], "area": 4.0, "iscrowd": 0}]


def test_names_are_words_that_can_be_printed():
    rows = [{"id": 3, "name": "cat"}, {"id": 4}, {"id": 5, "name": "\ud800x"}, {"id": 6, "name": 7}]
    names = category_names(rows)
    assert names == {3: "cat", 4: "4", 5: "\\ud800x", 6: "7"}
    "".join(names.values()).encode()


@pytest.mark.parametrize("value", [LARGEST_COORDINATE, -LARGEST_COORDINATE, 0, 1.5])
def test_coordinates_of_pictures(value):
    assert are_coordinates([value, 1])


@pytest.mark.parametrize(
    "value", [1e308, -1e10, 10**400, float("nan"), float("inf"), True, None, "1", [1]]
)
def test_what_no_coordinate_is(value):
    assert not are_coordinates([0, value])
