"""Reading annotation files, and what optional fields mean."""

import json

import pytest

from datasets.annotations.checks import check_annotations
from datasets.annotations.coco_file import (
    LARGEST_COORDINATE,
    are_coordinates,
    box_area,
    category_names,
    fill_optional_fields,
    load_annotations,
    text_ids,
)
from util.category_ids import category_id_of
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
    with pytest.raises(UserError, match=r"found.json contains detections \(COCO results\)"):
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
        ({"bbox": [1, 2, 3, 4], "area": -7.5}, 12),
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


# ---- category ids that are strings


def load(tmp_path, categories, annotations):
    path = tmp_path / "text.json"
    path.write_text(
        json.dumps({"images": [], "categories": categories, "annotations": annotations})
    )
    return load_annotations(path)


def test_text_ids_become_integers_that_do_not_depend_on_the_file(tmp_path):
    rows = [{"id": "red cell"}, {"id": "7", "name": "platelet"}, {"id": 3, "name": "dust"}]
    used = [{"category_id": one} for one in ("7", "red cell", 3, 7, "3")]
    data = load(tmp_path, rows, used)
    red = category_id_of("red cell")
    assert [row["id"] for row in data["categories"]] == [red, 7, 3]
    assert [one["category_id"] for one in data["annotations"]] == [7, red, 3, 7, 3]
    assert text_ids(data["categories"]) == {red: "red cell", 7: "7"}
    assert category_names(data["categories"]) == {red: "red cell", 7: "platelet", 3: "dust"}


def test_text_ids_of_segments(tmp_path):
    maps = [{"segments_info": [{"category_id": "sky"}]}, {"segments_info": "wrong"}]
    data = load(tmp_path, [{"id": "sky"}], maps)
    assert data["annotations"][0]["segments_info"] == [{"category_id": category_id_of("sky")}]


def test_text_without_a_category_is_kept_and_named(tmp_path):
    rows, images = [{"id": "sky"}], [{"id": 1, "file_name": "a.jpg"}]
    fields = {"id": 1, "image_id": 1, "category_id": "sea", "bbox": [0, 0, 1, 1]}
    data = load(tmp_path, rows, [fields]) | {"images": images}
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match=r"annotation id 1 of image id 1 \(category_id 'sea'\)"):
        check_annotations(data, "text.json", tmp_path)


def test_text_ids_with_a_number_of_classes(tmp_path):
    data = load(tmp_path, [{"id": "sky"}], [{"id": 1, "image_id": 1, "category_id": "sky"}])
    data["annotations"][0]["bbox"], data["images"] = [0, 0, 1, 1], [{"id": 1, "file_name": "a"}]
    (tmp_path / "a").touch()
    with pytest.raises(UserError, match="; omit --num_classes: it needs integer"):
        check_annotations(data, "text.json", tmp_path, num_classes=3)


def test_text_ids_that_stand_for_one_number(tmp_path):
    assert category_id_of("plumless") == category_id_of("buckeroo")  # a known collision of CRC-32
    data = load(tmp_path, [{"id": "plumless"}, {"id": "buckeroo"}], [])
    data["images"] = [{"id": 1, "file_name": "a.jpg"}]
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match=r"have the same id .*'plumless', category id 'buckeroo'"):
        check_annotations(data, "text.json", tmp_path)


@pytest.mark.parametrize("value", [LARGEST_COORDINATE, -LARGEST_COORDINATE, 0, 1.5])
def test_coordinates_of_images(value):
    assert are_coordinates([value, 1])


@pytest.mark.parametrize(
    "value", [1e308, -1e10, 10**400, float("nan"), float("inf"), True, None, "1", [1]]
)
def test_what_no_coordinate_is(value):
    assert not are_coordinates([0, value])
