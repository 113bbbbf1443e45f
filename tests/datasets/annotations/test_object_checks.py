"""Warnings about files whose form hides or repeats objects, in step with the dataset check."""

import pytest

from datasets.annotations.compact.instances import Instances
from datasets.annotations.object_checks import warn_about_objects
from tests.datasets.check_cases import findings_of, row, write_split


def warnings_about(data, caplog, training=True):
    caplog.clear()
    warn_about_objects(Instances(data), "a.json", training)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(("num_crowds", "num_images"), [(2, 3), (3, 32), (3, 30)])
def test_many_crowds_are_reported(tmp_path, caplog, num_crowds, num_images):
    data = write_split(tmp_path, num_images=num_images)  # two annotations each
    for annotation in data["annotations"][:num_crowds]:
        annotation["iscrowd"] = 1
    found, messages = findings_of(tmp_path, data), warnings_about(data, caplog)
    are_many = (num_crowds, num_images) == (3, 30)
    assert ("many_crowds" in found) == are_many
    start = "a.json: 3 of 60 annotations are crowds (iscrowd 1), which training and AP ignore; if "
    assert [message.startswith(start) for message in messages] == [True] * are_many
    for annotation in data["annotations"]:
        annotation["difficult"] = annotation.get("iscrowd", 0)  # Pascal VOC
    assert "many_crowds" not in findings_of(tmp_path, data)
    assert not warnings_about(data, caplog)


def test_objects_of_a_file_that_are_divided_between_ids_are_reported(tmp_path, caplog):
    data = write_split(tmp_path)
    first, second, *_ = data["images"]
    second["file_name"] = first["file_name"]
    found, messages = findings_of(tmp_path, data, open_images=False), warnings_about(data, caplog)
    assert [one.detail for one in found["file_under_several_ids"].examples] == ["image ids 1, 2"]
    assert len(messages) == 1 and "a.json: 1 file is listed under several image ids" in messages[0]
    assert "train1.png (2 ids); give every file one id" in messages[0]
    boxes = [annotation["bbox"] for annotation in data["annotations"]]
    boxes[2:4] = boxes[:2]  # complete copies, as of images that are to be seen more often
    for annotation, box in zip(data["annotations"], boxes, strict=True):
        annotation["bbox"] = box
    assert "file_under_several_ids" not in findings_of(tmp_path, data, open_images=False)
    assert not warnings_about(data, caplog)


@pytest.mark.parametrize("num_copies", [2, 3])
def test_many_copies_of_annotations_are_reported(tmp_path, caplog, num_copies):
    data = write_split(tmp_path, num_images=10)
    for number, original in enumerate(data["annotations"][4 : 4 + num_copies]):
        ids = 900 + number, original["image_id"]
        data["annotations"].append(row(*ids, original["bbox"], original["category_id"]))
    first = data["annotations"][0]  # the same box with another class, in another image, a crowd
    others = [(1, 2, 0), (2, 1, 0), (1, 1, 1)]
    for number, (image_id, label, crowd) in enumerate(others, start=950):
        data["annotations"].append(row(number, image_id, first["bbox"], label, iscrowd=crowd))
    messages = warnings_about(data, caplog)
    if num_copies < 3:
        assert not messages
    else:
        assert messages[0].startswith("a.json: 3 of 26 annotations repeat the class and box of")
        examples = [(900, 3), (901, 3), (902, 4)]
        ids = [f"annotation id {i} (train{image}.png)" for i, image in examples]
        assert messages[0].endswith(", ".join(ids))


@pytest.mark.parametrize("num_empty", [4, 5])
def test_mostly_empty_training_images_are_reported(tmp_path, caplog, num_empty):
    data = write_split(tmp_path, num_images=10)
    kept = [one for one in data["annotations"] if one["image_id"] > num_empty]
    data["annotations"] = kept
    messages = warnings_about(data, caplog)
    start = "a.json: 5 of 10 images have no object of the classes, such as train1.png: "
    assert [message.startswith(start) for message in messages] == [True] * (num_empty == 5)
    assert not warnings_about(data, caplog, training=False)
