"""Reading annotation files, and what optional fields mean."""

import json

import pytest

from datasets.annotations import (
    box_area,
    fill_optional_fields,
    is_rle,
    load_annotations,
    usable_polygons,
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
        ("", "is not JSON"),
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


def test_missing_file_names_the_flags(tmp_path):
    with pytest.raises(UserError, match=r"gone\.json cannot be read .*--train_ann"):
        load_annotations(tmp_path / "gone.json")
    with pytest.raises(UserError, match="cannot be read"):
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


def test_polygons_need_three_points_of_finite_numbers():
    triangle = [0, 0, 5, 0, 5.5, 5]
    bad = [[0, 0, 1, 1], [0, 0, 1, 1, 2, 2, 3], [0, 0, 1, 1, 2, float("nan")], ["a"] * 6, None]
    assert usable_polygons([*bad, triangle]) == [triangle]
    for nothing in (None, [], [[]], {"counts": []}, "text"):
        assert usable_polygons(nothing) == []


def test_rle_is_recognised():
    assert is_rle({"counts": [3, 1], "size": [2, 2]})
    assert is_rle({"counts": "03", "size": [2, 2]})
    for other in (None, [], {"counts": [3]}, {"size": [2, 2]}, {"counts": 3, "size": [2, 2]}):
        assert not is_rle(other)
