"""Inputs read one after the other."""

import json

import pytest

from datasets.annotations.coco_file import UPRIGHT
from prediction.inputs import reading
from prediction.inputs.find import Input
from prediction.inputs.listed import ListedFiles
from prediction.inputs.reading import read_items
from prediction.inputs.video import Frame
from tests.datasets.photo_cases import UPRIGHT_WH, upright_image, write_photo
from util.errors import UserError


@pytest.fixture
def photo(tmp_path):
    write_photo(tmp_path / "a.jpg", 6)
    return Input(str(tmp_path / "a.jpg"), "a.jpg")


def clip(source, fps):
    """Two frames, then the file is broken."""
    assert fps == 2
    yield Frame(0, 0.0, upright_image())
    yield Frame(5, 0.5, upright_image())
    raise UserError(f"{source} is cut")


def test_a_broken_input_does_not_end_the_rest(photo, monkeypatch):
    monkeypatch.setattr(reading, "frames", clip)
    inputs = [Input("no.jpg", "no.jpg"), Input("v.mp4", "v.mp4", is_video=True), photo]
    failures = []
    found = read_items(inputs, 2, None, lambda *failure: failures.append(failure))
    items = [item for item, _ in found]
    assert [item.name for item in items] == ["v.mp4/000000.jpg", "v.mp4/000005.jpg", "a.jpg"]
    assert [item.image_id for item in items] == [1, 2, 3]
    assert [item.seconds for item in items] == [0.0, 0.5, None]
    assert items[1].title == "v.mp4, frame 5" and items[2].title == photo.path
    assert [file for file, _ in failures] == ["no.jpg", "v.mp4"]
    assert "no.jpg does not exist" in str(failures[0][1])


def test_images_are_upright_and_read_on_demand(photo):
    stream = read_items([photo, Input("no.jpg", "no.jpg")], None, None, lambda *_: 1 / 0)
    _, image = next(stream)
    assert image.size == upright_image().size
    with pytest.raises(ZeroDivisionError):
        next(stream)


@pytest.mark.parametrize(
    ("row", "is_upright"),
    [
        ({}, False),
        ({"width": UPRIGHT_WH[0], "height": UPRIGHT_WH[1]}, True),
        ({UPRIGHT: True}, True),
    ],
)
def test_listed_images_have_the_orientation_of_their_annotations(photo, tmp_path, row, is_upright):
    found, failures = read_with_row(photo, tmp_path, row)
    ((item, image),) = found
    assert (item.image_id, failures) == (7, [])
    assert (image.size == UPRIGHT_WH) == is_upright


def test_an_image_of_another_size_than_listed_is_not_predicted(photo, tmp_path):
    found, failures = read_with_row(photo, tmp_path, {"width": 480, "height": 320})
    assert found == []
    assert "is 32 x 48 pixels (width x height), but 480 x 320 in the file of --ann" in failures[0]


def read_with_row(photo, tmp_path, row):
    """Images that are read with an annotation file, and the messages about the others."""
    rows = [{"id": 7, "file_name": "a.jpg", **row}]
    (tmp_path / "ann.json").write_text(json.dumps({"images": rows, "categories": []}))
    failures = []
    listed = ListedFiles(tmp_path / "ann.json")
    found = read_items([photo], None, listed, lambda _, error: failures.append(str(error)))
    return list(found), failures
