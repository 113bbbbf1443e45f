"""Ids of image files in an annotation file."""

import json

import pytest

from prediction.inputs.find import Input
from prediction.inputs.listed import ListedFiles
from util.errors import UserError

ROWS = [
    {"id": 5, "file_name": "x.jpg", "width": 4, "height": 3},
    {"id": 6, "file_name": "b/x.jpg"},
    {"id": "seven", "file_name": "y.jpg"},
    {"id": 8},
]


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "ann.json"
    path.write_text(json.dumps({"images": ROWS, "categories": []}))
    return ListedFiles(path)


@pytest.mark.parametrize(
    ("path", "image_id"), [("x.jpg", 5), ("a/x.jpg", 5), ("/d/b/x.jpg", 6), ("./b/x.jpg", 6)]
)
def test_the_longest_end_of_a_path_counts(path, image_id, listed):
    assert listed.find(path).image_id == image_id


def test_sizes_where_they_are_given(listed):
    assert listed.find("x.jpg").size_wh == (4, 3)
    assert listed.find("b/x.jpg").size_wh is None


@pytest.mark.parametrize("name", ["y.jpg", "z.jpg"])
def test_other_files_are_refused(name, listed):
    with pytest.raises(UserError, match=rf"{name} is not among the images of --ann .*ann\.json"):
        listed.check([Input("x.jpg", "x.jpg"), Input(name, name)])


def test_two_files_cannot_have_one_id(listed):
    with pytest.raises(UserError, match=r"a/x\.jpg and c/x\.jpg both match image id 5 of --ann"):
        listed.check([Input("a/x.jpg", "a/x.jpg"), Input("c/x.jpg", "c/x.jpg")])
    listed.check([Input("a/x.jpg", "a/x.jpg"), Input("b/x.jpg", "b/x.jpg")])


def test_videos_have_no_ids(listed):
    with pytest.raises(UserError, match=r"v\.mp4 is a video"):
        listed.check([Input("v.mp4", "v.mp4", is_video=True)])


def test_a_file_that_is_no_annotation_file(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(UserError, match=r"not in COCO format.*--ann"):
        ListedFiles(tmp_path / "a.json")


def test_a_file_with_two_ids_is_refused(tmp_path):
    rows = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg"}]
    (tmp_path / "ann.json").write_text(json.dumps({"images": rows, "categories": []}))
    with pytest.raises(UserError, match=r"lists a.jpg as image ids 1 and 2; list every file once"):
        ListedFiles(tmp_path / "ann.json").find("a.jpg")
