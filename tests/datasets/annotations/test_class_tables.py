"""Class tables: of a run, from training data, validation data and checkpoint; their differences."""

from types import SimpleNamespace

import pytest

from datasets.annotations.class_tables import (
    ClassTable,
    check_instance_classes,
    classes_of_run,
    name_conflicts,
    only_in,
    similar_names,
    table_of_checkpoint,
    thing_conflicts,
    warn_of_mirrored_classes,
    warn_of_other_ids,
    warn_of_similar_classes,
)
from util.errors import UserError

LABELS = ("train", "val")


def data(name, categories, is_thing=None):
    things = {} if is_thing is None else {"is_thing": is_thing}
    return SimpleNamespace(ann_file=f"{name}.json", categories=categories, **things)


def merge(train, val, checkpoint=None, skip_checks=False):
    return classes_of_run(val, train, checkpoint, "last.pth", skip_checks)


def test_names_come_from_training_and_validation_adds_ids(capsys):
    classes = merge(data("t", {1: "cat", 2: "dog"}), data("v", {1: "cat", 3: "cow"}))
    assert classes.names == {1: "cat", 2: "dog", 3: "cow"}
    (line,) = capsys.readouterr().out.splitlines()
    assert "training (t.json) and validation (v.json)" in line
    assert "id 2: 'dog' in training only, id 3: 'cow' in validation only" in line


def test_equal_tables_need_no_word(capsys):
    classes = merge(data("t", {1: "cat"}), data("v", {1: "cat"}), {"categories": {1: "cat"}})
    assert (classes.names, classes.is_thing) == ({1: "cat"}, {})
    assert capsys.readouterr().out == ""


def test_swapped_names_stop_the_run():
    names = {number: f"class{number}" for number in range(1, 7)}
    shifted = {number: f"class{number % 6 + 1}" for number in range(1, 7)}
    with pytest.raises(UserError) as caught:
        merge(data("t", names), data("v", shifted))
    message = str(caught.value)
    assert "training (t.json) and validation (v.json)" in message
    assert "id 1: in training 'class1', in validation 'class2'" in message
    assert "and 3 more" in message and "--skip_checks" in message and "class4" in message
    assert "\n" not in message


def test_a_conflict_with_a_checkpoint_names_finetuning():
    own = data("t", {1: "cat"})
    with pytest.raises(UserError, match="start a new run from the weights with --finetune"):
        merge(own, own, {"categories": {1: "dog"}})


def test_skipped_checks_keep_the_names_of_training(capsys):
    train, val = data("t", {1: "cat", 2: "dog"}), data("v", {1: "dog", 2: "cat"})
    assert merge(train, val, skip_checks=True).names == {1: "cat", 2: "dog"}
    assert "in training 'cat', in validation 'dog'" in capsys.readouterr().out


@pytest.mark.parametrize("train", [None, data("t", {1: "cat", 2: "dog"})])
def test_a_checkpoint_with_other_names_stops_the_run(train):
    val = data("v", {1: "cat", 2: "dog"})
    with pytest.raises(UserError, match=r"checkpoint \(last.pth\)"):
        merge(train, val, {"categories": {1: "dog", 2: "cat"}})


def test_evaluation_has_the_names_of_the_checkpoint(capsys):
    classes = merge(None, data("v", {1: "cat"}), {"categories": {1: "cat", 2: "dog"}})
    assert classes.names == {1: "cat", 2: "dog"} and classes.label == "checkpoint"
    assert "'dog' in checkpoint only" in capsys.readouterr().out


@pytest.mark.parametrize("saved", [{}, {"categories": None}, {"categories": [1], "is_thing": None}])
def test_a_checkpoint_without_names_changes_nothing(saved, capsys):
    assert merge(None, data("v", {1: "cat"}), saved).names == {1: "cat"}
    assert capsys.readouterr().out == ""


def test_what_is_no_table_in_a_foreign_checkpoint_is_passed_over():
    table = table_of_checkpoint(
        "x", {"categories": {1: "cat", "2": "dog", 3: 4}, "is_thing": {1: 1}}
    )
    assert (table.names, table.is_thing) == ({1: "cat"}, {})


@pytest.mark.parametrize("in_checkpoint", [False, True])
def test_things_and_stuff_that_differ_stop_the_run(in_checkpoint):
    names, things = {1: "cat", 2: "sky"}, {1: True, 2: False}
    train, other = data("t", names, things), {1: True, 2: True}
    val = data("v", names, things if in_checkpoint else other)
    checkpoint = {"categories": names, "is_thing": other} if in_checkpoint else None
    with pytest.raises(UserError, match="id 2: stuff in training, thing in"):
        merge(train, val, checkpoint)
    assert merge(train, val, checkpoint, skip_checks=True).is_thing == things


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({}, {}, []),
        ({1: "cat", 2: "dog"}, {1: "cat", 2: "dog"}, []),
        ({1: "cat", 2: "dog"}, {1: "cat"}, []),
        ({1: "cat"}, {1: "cat", 2: "dog"}, []),
        ({1: "cat"}, {1: "Cat"}, [(1, "in train 'cat', in val 'Cat'")]),
        (
            {1: "cat", 2: "dog"},
            {1: "dog", 2: "cat"},
            [(1, "in train 'cat', in val 'dog'"), (2, "in train 'dog', in val 'cat'")],
        ),
        ({1: "cat"}, {2: "cat"}, [(2, "'cat' has id 1 in train, 2 in val")]),
    ],
)
def test_names_that_conflict(first, second, expected):
    assert name_conflicts(first, second, LABELS) == expected


def test_ids_from_zero_against_ids_from_one():
    conflicts = name_conflicts({0: "cat", 1: "dog"}, {1: "cat", 2: "dog"}, LABELS)
    assert [one.category_id for one in conflicts] == [1, 2]
    assert conflicts[1].detail == "'dog' has id 1 in train, 2 in val"


def test_a_name_that_is_twice_in_a_table_conflicts_only_where_no_id_agrees():
    twice = {1: "cat", 5: "cat"}
    assert name_conflicts({1: "cat"}, twice, LABELS) == []
    assert name_conflicts(twice, {5: "cat"}, LABELS) == []
    assert name_conflicts(twice, {7: "cat"}, LABELS) == [(7, "'cat' has id 1 in train, 7 in val")]


def test_things_against_stuff():
    first, second = {1: True, 2: False, 3: True}, {1: True, 2: True, 4: False}
    assert thing_conflicts(first, second, LABELS) == [(2, "stuff in train, thing in val")]


def test_classes_of_one_table():
    assert only_in("val", {1: "cat", 2: "dog"}, {1: "cat"}) == [(2, "'dog' in val only")]


def test_names_that_differ_in_case_or_spaces():
    names = ["cat", "Cat ", "dog", "big  dog", "Big Dog", "cat"]
    assert similar_names(names) == [["Cat ", "cat"], ["Big Dog", "big  dog"]]
    assert similar_names(["cat", "cat", "cats"]) == []
    assert similar_names(["caf\u00e9", "cafe\u0301"]) == [["cafe\u0301", "caf\u00e9"]]


def test_classes_that_differ_only_in_case(capsys):
    warn_of_similar_classes(["cat", "dog", "Cat"])
    assert capsys.readouterr().out == (
        "Warning: the classes 'Cat' and 'cat' look alike; if they are one class, correct the "
        "annotations\n"
    )


def test_classes_that_flips_exchange(capsys):
    names = ["left", "Right_Shoe", "leftover", "left_shoe", "right side", "cat"]
    warn_of_mirrored_classes(names, 0.5)
    assert capsys.readouterr().out == (
        "Warning: 'left_shoe' and 'Right_Shoe' are different classes, but --flip_prob 0.5 mirrors "
        "training images without exchanging their labels: the model cannot learn to tell them "
        "apart; add --flip_prob 0\n"
    )
    warn_of_mirrored_classes(names, 0)
    warn_of_mirrored_classes(["left", "cat", "copyright", "rightmost"], 0.5)
    assert capsys.readouterr().out == ""


def test_detections_and_a_file_with_other_ids(capsys):
    model = {1: "cat", 2: "dog"}
    warn_of_other_ids(model, {0: "animals", 1: "dog", 2: "cat"}, "a.json")
    assert capsys.readouterr().out == (
        "Warning: a.json has other category ids than the model: id 1: in the model 'cat', in the "
        "file 'dog', id 2: in the model 'dog', in the file 'cat'; detections have the ids of the "
        "model, so an AP with this file will be wrong\n"
    )
    warn_of_other_ids(model, {2: "dog", 3: "cow"}, "a.json")
    warn_of_other_ids(model, {1: "1", 2: "2"}, "a.json")  # the file has no names
    warn_of_other_ids({1: "1"}, {1: "cat"}, "a.json")  # the model has no names
    assert capsys.readouterr().out == ""


def check_instances(panoptic, instances):
    tables = [ClassTable("", file, names, {}) for file, names in (panoptic, instances)]
    check_instance_classes(*tables, skip_checks=False)


@pytest.mark.parametrize(
    ("instances", "says"),
    [
        ({5: "Dog"}, "id 5: 'dog' has id 2 in the panoptic file, 5 in the instance file"),
        ({1: "dog"}, "id 1: in the panoptic file 'person', in the instance file 'dog'"),
    ],
)
def test_instances_whose_names_have_other_ids_are_refused(instances, says):
    start = "category ids differ between the panoptic file p.json and the instance file i.json, "
    with pytest.raises(UserError, match=f"^{start}so that AP would be wrong: {says}; make the ids"):
        check_instances(("p.json", {1: "person", 2: "dog"}), ("i.json", instances))


def test_other_names_of_the_same_ids_are_a_warning(capsys):
    check_instances(("p.json", {1: "person", 2: "dog"}), ("i.json", {1: "human", 2: "dog"}))
    assert capsys.readouterr().out == (
        "Warning: class names differ between the panoptic file p.json and the instance file "
        "i.json: id 1: in the panoptic file 'person', in the instance file 'human'\n"
    )


@pytest.mark.parametrize("instances", [{1: "Person", 2: "dog"}, {1: "1", 2: "2"}, {2: "dog"}, {}])
def test_instances_may_spell_names_in_other_cases_or_lack_them(instances, capsys):
    check_instances(("p.json", {1: "person", 2: "Dog"}), ("i.json", instances))
    check_instances(("p.json", {1: "1", 2: "2"}), ("i.json", instances))
    assert capsys.readouterr().out == ""
