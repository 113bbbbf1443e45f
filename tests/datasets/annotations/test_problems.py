"""Problems of an annotation file."""

import pickle

import pytest

from datasets.annotations.problems import AnnotationFileError, FileProblems


def test_problems_are_kept_in_the_error_and_survive_a_worker():
    found = FileProblems("a.json")
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
