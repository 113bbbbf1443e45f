"""Differences of class tables."""

import pytest

from datasets.annotations.class_tables import (
    name_conflicts,
    only_in,
    similar_names,
    thing_conflicts,
)

LABELS = ("train", "val")


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
