"""``--classes``: other ids, objects that are left out, and names that do not occur."""

import pytest

from datasets.formats.class_list import keep_classes
from tests.datasets.format_cases import coco_tables
from util.errors import UserError


def keep(names, data=None):
    return keep_classes(coco_tables() if data is None else data, names, "mine.json", "train")


def test_the_order_gives_the_ids():
    data, remarks = keep(["dog", "cat"])
    assert data["categories"] == [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    assert [row["category_id"] for row in data["annotations"]] == [2, 2, 1]
    assert remarks == []


def test_other_objects_are_left_out_and_counted():
    before = coco_tables()
    data, remarks = keep(["dog"], before)
    assert [row["id"] for row in data["annotations"]] == [3]
    assert len(data["images"]) == 2
    assert remarks == ["--classes (train): 2 objects of other classes ignored: cat 2"]
    assert before == coco_tables()


def test_names_that_the_data_lacks_are_reported():
    data, remarks = keep(["cat", "dogs", "dog"])
    assert remarks == [
        "Warning: --classes: mine.json (train) does not have 'dogs', did you mean dog?"
    ]
    assert [row["name"] for row in data["categories"]] == ["cat", "dogs", "dog"]
    assert [row["category_id"] for row in data["annotations"]] == [1, 1, 3]


def test_no_class_of_the_data():
    with pytest.raises(UserError, match=r"mine.json has none of these .* classes are cat, dog$"):
        keep(["Cat"])


def test_categories_without_name_have_their_id():
    data = coco_tables()
    del data["categories"][0]["name"]
    assert keep(["1"], data)[0]["categories"] == [{"id": 1, "name": "1"}]


def test_unknown_category_ids_are_an_error():
    data = coco_tables()
    data["annotations"][1]["category_id"] = 9
    with pytest.raises(UserError, match=r"mine.json must be corrected: 1 annotation has a categ"):
        keep(["cat"], data)


@pytest.mark.parametrize("value", [None, "1", [1]])
def test_invalid_category_ids_are_left_to_the_checks(value):
    data = coco_tables()
    data["annotations"][1]["category_id"] = value
    assert keep(["cat"], data)[0]["annotations"][1]["category_id"] == value
