"""Checks of sizes, ids and labels in annotation tables, and the error with all problems."""

import pickle
from collections import Counter

import pytest

from datasets.annotations.segmentations import MAX_MASK_PIXELS
from datasets.annotations.table_checks import AnnotationFileError, TableChecks, is_id
from util.files.image_files import MAX_PIXELS, MAX_SIDE


def test_the_number_of_classes_that_is_needed():
    found = TableChecks("a.json")
    rows = [{"id": 1, "category_id": 1}]
    found.check_labels_below("annotations", rows, 1, [])
    found.check_labels_below("annotations", rows, 1, [{"id": 1}, {"id": 3}, {"id": "x"}])
    found.check_labels_below("annotations", rows, 2, [{"id": 3}])
    needed = [problem.fix.partition(";")[0] for problem in found.problems]
    told = "--num_classes 1 is too small: the largest category id is"
    assert needed == [f"{told} 1, so 2 are needed", f"{told} 3, so 4 are needed"]


@pytest.mark.parametrize(
    ("size_wh", "says"),
    [
        ((MAX_SIDE, 1), None),
        ((MAX_SIDE, MAX_PIXELS // MAX_SIDE), None),
        ((MAX_SIDE, MAX_PIXELS // MAX_SIDE + 1), "width times height above"),
        ((10**9, 10**9), "invalid width"),
        ((10**400, 5), "invalid width"),
        ((5, -5), "invalid height"),
        ((5.0, 5), "invalid width"),
        ((5, None), "has no height"),
    ],
)
def test_sizes_of_images(size_wh, says):
    found = TableChecks("a.json")
    found.check_image_sizes([{"id": 1, "width": size_wh[0], "height": size_wh[1]}])
    assert [says in str(problem) for problem in found.problems][:1] == ([] if says is None else [1])


@pytest.mark.parametrize(("objects", "fits"), [(0, True), (4, True), (5, False)])
def test_masks_must_fit_into_memory(objects, fits):
    found = TableChecks("a.json")
    row = {"id": 1, "width": 2**15, "height": MAX_MASK_PIXELS // 2**17}
    found.check_mask_memory([row, {"id": [], "width": 1, "height": 1}], Counter({1: objects}))
    assert (found.problems == []) == fits


@pytest.mark.parametrize(
    ("value", "valid"),
    [(2**63 - 1, True), (-(2**63) + 1, True), (2**63, False), (10**400, False), (True, False)],
)
def test_ids_fit_into_a_tensor(value, valid):
    assert is_id(value) == valid


def test_problems_are_kept_in_the_error_and_survive_a_worker():
    found = TableChecks("a.json")
    rows = [{"id": 1, "file_name": 3}, {"id": 2, "file_name": 4}]
    found.add("images", rows, "are odd", "file_name")
    found.add("images", [], "are not there")
    with pytest.raises(AnnotationFileError) as caught:
        found.raise_if_any()
    (problem,) = caught.value.problems
    assert problem == ("images", rows, "are odd", "file_name", "")
    message = "a.json must be corrected: 2 images are odd: "
    message += "image id 1 (file_name 3), image id 2 (file_name 4)"
    assert str(caught.value) == message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message
