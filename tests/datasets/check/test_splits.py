"""Faults that only two splits together have."""

import pytest

from datasets.check.command import compare_splits
from tests.datasets.check_cases import check, write_image, write_split


@pytest.fixture
def splits(tmp_path):
    """Data of both splits, whose images all differ; and how to check and compare them."""
    data = {"train": write_split(tmp_path), "val": write_split(tmp_path, "val", first_seed=50)}

    def compare(**settings):
        stats = [check(tmp_path, data[name], name, **settings).stats for name in ("train", "val")]
        return {
            one.kind: [
                (place.category_id or place.image_id, place.detail) for place in one.examples
            ]
            for one in compare_splits(*stats)
        }

    return data, compare


def test_splits_that_fit_together(splits):
    assert splits[1]() == {}


def test_one_class_under_two_names_or_ids(splits):
    data, compare = splits
    data["val"]["categories"] = [{"id": 1, "name": "Cat"}, {"id": 3, "name": "dog"}]
    for one in data["val"]["annotations"]:
        one["category_id"] = 1
    found = compare()
    assert found["class_conflict"] == [
        (1, "in train 'cat', in val 'Cat'"),
        (3, "'dog' has id 2 in train, 3 in val"),
    ]
    assert found["class_table_differs"] == [(2, "'dog' in train only"), (3, "'dog' in val only")]


def test_classes_with_objects_in_one_split_only(splits):
    data, compare = splits
    for name in data:
        data[name]["categories"].append({"id": 3, "name": "cow"})
    data["train"]["annotations"][0]["category_id"] = 3
    for one in data["val"]["annotations"]:
        one["category_id"] = 1
    assert compare() == {
        "class_without_validation": [(2, "'dog', 4 in train"), (3, "'cow', 1 in train")]
    }
    data["train"], data["val"] = data["val"], data["train"]
    for name, other in (("train", "val"), ("val", "train")):
        for image in data[name]["images"]:
            image["file_name"] = image["file_name"].replace(other, name)
    assert compare() == {"class_without_training": [(2, "'dog', 4 in val"), (3, "'cow', 1 in val")]}


def test_shared_images_are_found_by_their_pixels(splits, tmp_path):
    _, compare = splits
    write_image(tmp_path / "val" / "val3.png", seed=2)
    assert compare() == {
        "duplicate_across_splits": [(2, "identical to validation image id 3 (val3.png)")]
    }
    assert compare(open_images=False) == {}


def test_without_pixels_files_and_names_tell(splits, tmp_path):
    data, compare = splits
    (tmp_path / "val" / "val1.png").unlink()
    (tmp_path / "val" / "val1.png").symlink_to(tmp_path / "train" / "train1.png")
    (tmp_path / "val" / "val2.png").rename(tmp_path / "val" / "train4.png")
    data["val"]["images"][1]["file_name"] = "train4.png"
    assert compare(open_images=False) == {
        "duplicate_across_splits": [(1, "same file as validation image id 1")],
        "same_name_across_splits": [(4, "same file name as validation image id 2")],
    }
    assert compare().keys() == {"duplicate_across_splits"}
