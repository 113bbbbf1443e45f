"""One split: its counts, and every fault of its annotation file in one go."""

import json
import random
import re

import pytest

from datasets.annotations.checks import check_annotations
from datasets.annotations.table_checks import AnnotationFileError
from datasets.check.command import compare_splits
from datasets.check.report import Report, as_json, as_text
from tests.datasets.check_cases import HEIGHT, WIDTH, check, findings_of, row, split_at, write_split


@pytest.fixture
def data(tmp_path):
    return write_split(tmp_path)


def test_a_right_split_has_no_findings_and_is_counted(tmp_path, data):
    data["images"][3]["width"] = None  # sizes are optional without masks
    data["annotations"] += [
        row(90, 1, [3, 3, 30, 30], iscrowd=1),
        row(91, 1, [3, 3, 40, 40], category_id=2),
    ]
    stats = check(tmp_path, data).stats
    assert stats.findings == []
    assert stats.num_annotations == 10
    assert stats.objects == {1: 3, 2: 2, 3: 2, 4: 2}
    assert (stats.num_crowd, stats.num_images_with_crowd) == (1, 1)
    counts = [(number, one.name, one.objects, one.images) for number, one in stats.classes.items()]
    assert counts == [(1, "cat", 4, 4), (2, "dog", 5, 4)]
    assert stats.box_areas == {"small": 8, "medium": 1, "large": 0}
    assert stats.sizes_wh == dict.fromkeys([1, 2, 3, 4], (WIDTH, HEIGHT))


def test_boxes_of_negative_size_have_no_area(tmp_path, data):
    data["annotations"][0]["bbox"] = [300, 300, -200, -200]
    assert check(tmp_path, data).stats.box_areas == {"small": 7, "medium": 0, "large": 0}


def test_a_file_is_refused_exactly_where_training_refuses_it(tmp_path, data):
    """Whatever the faults, all of training's problems are among the findings."""
    data["annotations"][0]["category_id"] = "x"
    data["annotations"][1]["bbox"] = [1, 2, 3]
    data["annotations"][2]["image_id"] = 77
    data["annotations"][3]["id"] = data["annotations"][4]["id"]
    data["images"][3]["file_name"] = "gone.png"
    stats = check(tmp_path, data, num_classes=2).stats
    split = split_at(tmp_path)
    with pytest.raises(AnnotationFileError) as refusal:
        check_annotations(data, split.ann_file, split.img_folder, training=True, num_classes=2)
    messages = [one.message for one in stats.findings if one.kind == "refused"]
    assert len(messages) == len(refusal.value.problems) - 1  # one of them: missing_file
    told = {f"{problem.table} {problem.text}" for problem in refusal.value.problems}
    assert {message.partition("; ")[0] for message in messages} < told
    (missing,) = (one for one in stats.findings if one.kind == "missing_file")
    assert (missing.count, missing.examples[0].image_id) == (1, 4)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: data["images"].clear(), "has no images"),
        (lambda data: data["annotations"].clear(), "has no annotations"),
        (lambda data: [one.update(iscrowd=1) for one in data["annotations"]], "crowd annotations"),
    ],
)
def test_a_file_without_anything_to_learn(tmp_path, data, spoil, says):
    spoil(data)
    finding = findings_of(tmp_path, data)["refused"]
    assert says in finding.message
    assert "[refused]" in as_text(Report([check(tmp_path, data).stats], [], 100))


def test_empty_boxes_alone_teach_nothing(tmp_path, data):
    for one in data["annotations"]:
        one["bbox"] = [1, 1, 0, 5]
    assert findings_of(tmp_path, data).keys() == {"empty_box", "no_objects"}
    (tmp_path / "train").rename(tmp_path / "val")
    assert findings_of(tmp_path, data, name="val").keys() == {"empty_box"}


def test_segmentations_are_needed_with_masks_only(tmp_path, data):
    assert findings_of(tmp_path, data) == {}
    finding = findings_of(tmp_path, data, masks=True)["refused"]
    assert finding.count == 8
    assert "no usable segmentation" in finding.message
    for one in data["annotations"]:
        one["segmentation"] = {"counts": [1, 2], "size": [HEIGHT, WIDTH]}
    finding = findings_of(tmp_path, data, masks=True)["refused"]
    assert (finding.count, len(finding.examples)) == (8, 8)
    assert "RLE whose counts" in finding.message


def test_more_objects_than_queries(tmp_path, data):
    data["annotations"] += [row(90, 2, [3, 3, 5, 5]), row(91, 3, [3, 3, 5, 5], iscrowd=1)]
    finding = findings_of(tmp_path, data, num_queries=2)["few_with_more_objects_than_queries"]
    assert [(one.image_id, one.detail) for one in finding.examples] == [(2, "3")]
    assert finding.severity == "warning"
    assert findings_of(tmp_path, data, num_queries=3) == {}
    finding = findings_of(tmp_path, data, num_queries=1)["more_objects_than_queries"]
    assert [one.image_id for one in finding.examples] == [2, 1, 3, 4]
    assert finding.severity == "error"


def test_image_paths_out_of_the_folder(tmp_path, data):
    data["images"][0]["file_name"] = "../train/train1.png"  # comes back: no fault
    data["images"][1]["file_name"] = "../elsewhere.png"
    (tmp_path / "train" / "train2.png").rename(tmp_path / "elsewhere.png")
    finding = findings_of(tmp_path, data)["path_outside_folder"]
    assert [one.image_id for one in finding.examples] == [2]


def test_classes_of_one_name(tmp_path, data):
    data["categories"].append({"id": 9, "name": "cat"})
    finding = findings_of(tmp_path, data)["duplicate_class_name"]
    assert [(one.category_id, one.detail) for one in finding.examples] == [
        (9, "'cat', same as category id 1")
    ]


def test_image_files_are_not_opened_on_request(tmp_path, data):
    (tmp_path / "train" / "train1.png").write_text("broken")
    (tmp_path / "train" / "train2.png").unlink()
    assert findings_of(tmp_path, data).keys() == {"unreadable_image", "missing_file"}
    assert findings_of(tmp_path, data, open_images=False).keys() == {"missing_file"}


@pytest.mark.parametrize("name", ["a\0.png", "\ud800/b.png", "x" * 5000, "sub/", "", 7])
def test_names_that_no_file_can_have(tmp_path, data, name):
    data["images"][0]["file_name"] = name
    findings = findings_of(tmp_path, data)
    assert findings.keys() & {"missing_file", "refused"}


ODD_VALUES = [None, True, -1, 0, 1, 2, 1.5, 10**30, 10**400, "", "1", "a.png", "\ud800", "a\0"]
ODD_VALUES += [[], [1], [1, 2, 3, 4], [0, 0, 1e308, 1e308], [1, 2, 3, None], {}, {"counts": [1]}]
ODD_VALUES += [{"counts": [3], "size": [1, 3]}, {"counts": "a", "size": [1]}, [[1, 1, 5, 1, 5, 5]]]


@pytest.mark.parametrize("seed", range(60))
def test_arbitrary_values_give_a_report_and_never_an_exception(tmp_path, data, seed):
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 12)):
        one = rng.choice(data[rng.choice(["images", "annotations", "categories"])])
        fields = [*one, "segmentation", "area", "iscrowd", "keypoints", "name"]
        one[rng.choice(fields)] = rng.choice(ODD_VALUES)
    stats = check(tmp_path, data, masks=rng.random() < 0.5, num_pictures=2).stats
    report = Report([stats], [], 100)
    as_text(report).encode()
    json.dumps(as_json(report), allow_nan=False).encode()


def test_ids_in_text_are_shown_as_in_the_file(tmp_path):
    splits = []
    for name in ("train", "val"):
        data = write_split(tmp_path, name)
        for one in data["categories"]:
            one["id"] = f"class {one['id']}"
        for one in data["annotations"]:
            one["category_id"] = f"class {one['category_id']}"
        data["categories"].append({"id": "class 3", "name": "cat"})
        if name == "val":
            data["categories"][1]["name"] = "cow"
            data["annotations"][0]["category_id"] = "class 4"
        splits.append(check(tmp_path, data, name).stats)
    report = Report(splits, compare_splits(*splits), 100)
    text, stats = as_text(report), as_json(report)
    assert "classes: 3, string ids\n" in text and " class 2  dog  " in text
    assert "category_id 'class 4'" in text
    assert re.search(r"category id class [13]: 'cat', same as category id class [13]", text)
    assert "category id class 2: in train 'dog', in val 'cow'" in text
    assert {row["id"] for row in stats["classes"]["table"]} == {"class 1", "class 2", "class 3"}
    assert stats["classes"]["unused_ids"] == []


def test_classes_whose_names_differ_in_case(tmp_path, data):
    data["categories"].append({"id": 9, "name": "Cat"})
    finding = findings_of(tmp_path, data)["similar_class_names"]
    assert [one.detail for one in finding.examples] == ["'Cat' (id 9), 'cat' (id 1)"]


def test_classes_that_flips_exchange(tmp_path, data):
    data["categories"][0]["name"], data["categories"][1]["name"] = "Left shoe", "right shoe"
    finding = findings_of(tmp_path, data)["mirrored_class_names"]
    assert [one.detail for one in finding.examples] == ["'Left shoe' and 'right shoe'"]
