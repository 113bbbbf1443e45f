"""Checks that stop a run before it starts, in step with ``python -m datasets.check``."""

import json
from types import SimpleNamespace

import pytest

from datasets.annotations.compact.instances import Instances
from datasets.annotations.compact.panoptic import PanopticSegments
from datasets.annotations.start_checks import (
    check_boxes_and_counts,
    check_segment_counts,
    warn_of_shared_images,
)
from datasets.coco import CocoDetection
from tests.datasets.check_cases import HEIGHT, WIDTH, findings_of, row, write_image, write_split
from util.errors import UserError


def file_with(boxes_xywh, **image_fields):
    """An annotation file with one box per image; without boxes one image."""
    size = image_fields or {"width": WIDTH, "height": HEIGHT}
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", **size} for i in range(max(1, len(boxes_xywh)))
        ],
        "annotations": [row(i, i, box) for i, box in enumerate(boxes_xywh)],
        "categories": [{"id": 1, "name": "cat"}],
    }


def check(data, folder="none", **options):
    options = {"training": True, "num_queries": None, "skip_checks": False} | options
    check_boxes_and_counts(Instances(data), "a.json", folder, **options)


BOXES = [[1, 2, 20, 30], [30, 10, 33, 30], [5, 6, 10, 12], [40, 20, 20, 20], [20, 3, 44, 40]]
OTHER_FORMATS = {
    "x1, y1, x2, y2": [[x, y, x + w, y + h] for x, y, w, h in BOXES],
    "center x, center y, width, height": [[x + w / 2, y + h / 2, w, h] for x, y, w, h in BOXES],
    "fractions": [[x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT] for x, y, w, h in BOXES],
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("says", OTHER_FORMATS)
def test_boxes_in_another_format_stop_both_splits(says, training, capsys):
    data = file_with(OTHER_FORMATS[says])
    with pytest.raises(UserError) as caught:
        check(data, training=training)
    message = str(caught.value)
    assert message.startswith("a.json: ") and says in message and "--skip_checks" in message
    assert "annotation id " in message and ".jpg) has bbox [" in message
    assert f"in {WIDTH} x {HEIGHT} pixels" in message and "\n" not in message
    check(data, training=training, skip_checks=True)
    assert says in capsys.readouterr().out


@pytest.mark.parametrize("boxes", [BOXES, BOXES[:1], []])
def test_boxes_of_coco_pass_without_a_word(boxes, capsys):
    check(file_with(boxes))
    check(file_with(boxes, width=None))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("says", OTHER_FORMATS)
def test_sizes_that_the_file_lacks_are_read_from_images(tmp_path, says):
    data = file_with(OTHER_FORMATS[says], width=None)
    data["images"].append({"id": 99, "file_name": "broken.jpg"})
    (tmp_path / "broken.jpg").write_text("hello")
    for image in data["images"][:-1]:
        write_image(tmp_path / image["file_name"], 0)
    with pytest.raises(UserError, match=says):
        check(data, tmp_path)
    check(file_with(BOXES, width=None), tmp_path)


def crowded_file():
    """Images 0, 1, 2 have three objects; image 3 two, a crowd and a box without area."""
    data = file_with([*BOXES[:3], BOXES[0]])
    numbers = iter(range(10, 100))
    for image_id in (0, 1, 2, 0, 1, 2, 3):
        data["annotations"].append(row(next(numbers), image_id, [3, 1, 5, 5]))
    data["annotations"].append(row(next(numbers), 3, [3, 3, 5, 5], iscrowd=1))
    data["annotations"].append(row(next(numbers), 3, [3, 3, 0, 5]))
    return data


def test_more_objects_than_queries_stop_training(capsys):
    check(crowded_file(), num_queries=3)
    check(crowded_file(), num_queries=None)
    with pytest.raises(UserError) as caught:
        check(crowded_file(), num_queries=2)
    message = str(caught.value)
    assert "--num_queries 2" in message and "image id 0 (0.jpg) has 3" in message
    assert "--num_queries 3 is enough" in message and "image id 3" not in message
    assert capsys.readouterr().out == ""
    check(crowded_file(), num_queries=2, skip_checks=True)
    assert "image id 0 (0.jpg) has 3" in capsys.readouterr().out


def test_more_objects_than_queries_in_validation_are_one_line(capsys):
    check(crowded_file(), training=False, num_queries=1)
    (line,) = capsys.readouterr().out.splitlines()
    assert "image id 0 (0.jpg) has 3" in line and "and 1 more" in line


def test_two_images_with_more_objects_than_queries_are_outliers(capsys):
    data = crowded_file()
    data["annotations"] = [one for one in data["annotations"] if one["image_id"] != 2]
    check(data, num_queries=2)
    (line,) = capsys.readouterr().out.splitlines()
    assert "image id 0 (0.jpg) has 3, image id 1 (1.jpg) has 3; --num_queries 3" in line


def test_all_errors_come_in_one_line():
    data = file_with(OTHER_FORMATS["x1, y1, x2, y2"])
    data["annotations"] += [row(90 + k, k, data["annotations"][k]["bbox"]) for k in range(3)]
    with pytest.raises(UserError, match=r"x1, y1, x2, y2.*; a.json: some images have more objects"):
        check(data, num_queries=1)


def test_segments_are_the_objects_of_panoptic_data(capsys):
    ids = (5, 6, 7)
    segments = [{"id": k, "category_id": 1} for k in (1, 2)]
    segments.append({"id": 3, "category_id": 1, "iscrowd": 1})
    maps = [{"image_id": i, "file_name": f"{i}.png", "segments_info": segments} for i in ids]
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in ids]
    categories = [{"id": 1}]
    data = {"images": images, "annotations": maps, "categories": categories}
    data = PanopticSegments(data)
    options = {"training": True, "skip_checks": False}
    check_segment_counts(data, "p.json", num_queries=3, **options)
    with pytest.raises(UserError, match=r"p.json: .*image id 5 \(5.jpg\) has 3"):
        check_segment_counts(data, "p.json", num_queries=2, **options)
    check_segment_counts(data, "p.json", num_queries=2, training=False, skip_checks=False)
    assert "has 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("split", "num_queries", "turned_into_corners", "error"),
    [
        ("train", 2, False, None),
        ("train", 1, False, "more_objects_than_queries"),
        ("val", 1, False, None),
        ("train", 2, True, "boxes_xyxy"),
        ("val", 2, True, "boxes_xyxy"),
    ],
)
def test_an_error_of_the_checker_is_an_error_of_training(
    tmp_path, split, num_queries, turned_into_corners, error
):
    data = write_split(tmp_path, split, num_images=6)
    if turned_into_corners:
        for annotation, (x1, y1, x2, y2) in zip(
            data["annotations"], OTHER_FORMATS["x1, y1, x2, y2"] * 2, strict=False
        ):
            annotation["bbox"] = [x1, y1, x2, y2]
        data["annotations"] = data["annotations"][:10]
    found = findings_of(tmp_path, data, name=split, num_queries=num_queries)
    errors = [kind for kind, finding in found.items() if finding.severity == "error"]
    assert errors == ([error] if error else [])
    ann_file = tmp_path / f"{split}.json"
    ann_file.write_text(json.dumps(data))
    options = {"training": split == "train", "num_queries": num_queries}
    if error is None:
        CocoDetection(tmp_path / split, ann_file, None, False, **options)
    else:
        with pytest.raises(UserError, match="--skip_checks"):
            CocoDetection(tmp_path / split, ann_file, None, False, **options)


def dataset_of(root, *names):
    return SimpleNamespace(root=root, coco={"images": [{"file_name": name} for name in names]})


def test_validation_images_that_are_training_images_too(tmp_path, capsys):
    (tmp_path / "link").symlink_to(tmp_path)
    val = dataset_of(tmp_path / "link", "in/a.jpg", "in/b.jpg", "c.jpg")
    warn_of_shared_images(dataset_of(tmp_path / "in", "a.jpg", "./b.jpg", "c.jpg"), val)
    assert capsys.readouterr().out == (
        "Warning: training also uses 2 of 3 validation images, such as "
        f"{tmp_path}/in/a.jpg; validation AP will be too high\n"
    )
    for train in (dataset_of(tmp_path / "in", "c.jpg"), dataset_of(None, "c.jpg"), [], None):
        warn_of_shared_images(train, val)
    assert capsys.readouterr().out == ""
