"""Which class each row of the classification head stands for."""

import argparse
from types import SimpleNamespace

import pytest

from datasets.annotations.class_tables import ClassTable
from models.released.coco_categories import CATEGORY_NAMES, THING_NAMES
from tests.util.tiny_detr import TinyDetr
from training.class_rows import (
    category_ids_in,
    choose_category_ids,
    class_of_row_in,
    require_rows,
)
from util.errors import UserError


def choose(dataset_file, ids, num_classes=None, names=None, text_ids=None):
    names = {i: f"class {i}" for i in ids} if names is None else names
    table = ClassTable("training", "t.json", names, {}, text_ids or {})
    return choose_category_ids(dataset_file, num_classes, table, max(ids))


@pytest.mark.parametrize(
    ("dataset_file", "ids", "num_rows"),
    [
        ("coco", [0, 1], 91),
        ("coco", [5, 90], 91),
        ("coco", range(91), 91),
        ("coco", range(92), 92),
        ("coco", range(1, 301), 301),
        ("coco_panoptic", [3, 249], 250),
        ("coco_panoptic", range(1, 301), 301),
        ("shapes", range(1, 6), 6),
        ("own", range(1, 6), 6),
        ("own", range(6), 6),
        ("yolo", range(6), 6),
    ],
)
def test_ids_that_are_row_numbers(dataset_file, ids, num_rows):
    chosen = choose(dataset_file, ids)
    assert chosen.are_rows and len(chosen.user_ids) == num_rows


@pytest.mark.parametrize(
    ("dataset_file", "ids"),
    [
        ("coco", [5, 91]),
        ("coco", [1, 5_000_000]),
        ("coco_panoptic", [1, 250]),
        ("own", [2, 5]),
        ("voc", range(1, 21)),
        ("yolo", [0, 2]),
        ("data", [7]),
    ],
)
def test_ids_that_have_one_row_each(dataset_file, ids):
    assert choose(dataset_file, list(ids)[::-1]).saved() == list(ids)


def test_a_given_number_of_classes_makes_ids_row_numbers():
    assert len(choose("data", [2, 5], num_classes=9).user_ids) == 9
    assert choose("coco", [2, 500], num_classes=501).are_rows


def test_data_that_does_not_list_its_classes():
    assert len(choose("own", [7], names={}).user_ids) == 8


def test_cocos_own_classes_keep_cocos_rows_in_every_format():
    names = {i: THING_NAMES[i] for i in (17, 18, 90)}
    assert len(choose("data", names, names=names).user_ids) == 91
    names[90] = "brush"
    assert choose("data", names, names=names).saved() == [17, 18, 90]


def test_text_ids_are_in_rows_that_are_ids():
    chosen = choose("coco", [1, 2], text_ids={2: "2"})
    assert chosen.are_rows and chosen.saved()[:4] == [0, 1, "2", 3]


# ---- checkpoints


def checkpoint(classes, **entries):
    return {"model": TinyDetr(classes=classes).state_dict(), **entries}


def test_class_names_by_row():
    saved = checkpoint(3, args={}, categories={7: "cat", 9: "dog"}, category_ids=[9, 8, 7])
    assert class_of_row_in(saved, "x.pth") == {0: "dog", 2: "cat"}
    saved = checkpoint(3, args={}, categories={1: "cat", 3: "beyond the head"})
    assert class_of_row_in(saved, "x.pth") == {1: "cat"}


@pytest.mark.parametrize(("num_classes", "kind"), [(91, "coco"), (250, "coco_panoptic")])
def test_released_files_have_cocos_names(num_classes, kind):
    assert class_of_row_in(checkpoint(num_classes), "x.pth") == CATEGORY_NAMES[kind]


@pytest.mark.parametrize("saved", [checkpoint(91, args=argparse.Namespace()), checkpoint(20)])
def test_names_that_are_not_known(saved):
    assert class_of_row_in(saved, "x.pth") == {}


def test_a_file_without_a_head_has_no_classes():
    state = {key: v for key, v in checkpoint(3)["model"].items() if "class" not in key}
    assert class_of_row_in({"model": state}, "x.pth") == {}


def test_ids_that_do_not_fit_the_head():
    with pytest.raises(UserError, match=r"x.pth: category_ids must be a list of 3 ids"):
        category_ids_in({"category_ids": [1]}, 3, "x.pth")


def test_a_class_without_a_row_is_named():
    rows = category_ids_in({"category_ids": [4, "sky"]}, 2, "x.pth")
    annotated = {*rows.by_row, 5, 6}
    data = SimpleNamespace(
        ann_file="v.json",
        categories={5: "sea", 6: "sand"},
        text_ids={6: "s"},
        annotated_category_ids=lambda: annotated,
    )
    with pytest.raises(UserError, match=r"in x.pth does not have: id 5 \(sea\), id s \(sand\);"):
        require_rows(data, rows, "x.pth")
    annotated -= {5, 6}
    require_rows(data, rows, "x.pth")
