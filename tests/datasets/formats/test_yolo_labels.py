"""Label files of YOLO: boxes, polygons, and lines that are invalid."""

import pytest

from datasets.formats.yolo import read_label_file
from tests.datasets.format_cases import CLASSES, HEIGHT, WIDTH, write_text
from util.errors import UserError


def read(tmp_path, text, keypoints=False, encoding="utf-8"):
    path = write_text(tmp_path / "one.txt", text, encoding)
    return read_label_file(path, (WIDTH, HEIGHT), CLASSES, keypoints)


def refusal(tmp_path, text):
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    return str(caught.value).removeprefix(str(tmp_path))


def test_a_box(tmp_path):
    (one,) = read(tmp_path, "2 0.5 0.5 0.25 0.5\n").objects
    assert one == ("emu", (15, 7.5, 10, 15), (), None)


def test_a_polygon_is_a_box_and_an_outline(tmp_path):
    (one,) = read(tmp_path, "0 0.25 0.5 0.5 0.5 0.25 1\n").objects
    assert one.box_xywh == (10, 15, 10, 15)
    assert one.polygons == [[10, 15, 20, 15, 10, 30]]


def test_keypoints_after_the_box_are_left_out(tmp_path):
    (one,) = read(tmp_path, "0 0.5 0.5 0.25 0.5 0.1 0.1 1.5 0.2 0.2 0\n", keypoints=True).objects
    assert one == ("cat", (15, 7.5, 10, 15), (), None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_line_ends_empty_lines_and_tabs(tmp_path, encoding):
    text = "\r\n0 0.5 0.5 0.25 0.5 \r\n\r\n1.0\t5e-1 .5 0.25 0.5"
    names = [one.name for one in read(tmp_path, text, encoding=encoding).objects]
    assert names == ["cat", "dog"]


def test_an_empty_file(tmp_path):
    assert read(tmp_path, "") == ([], [])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("0 0.5 0.5 0 0.5", "line 2 (cat)"),
        ("0 .1 .1 .2 .1 .3 .1", "line 2 (cat)"),
        ("0 0.5 0.5 0.1 -0.1", "line 2 (cat, negative size)"),
    ],
)
def test_objects_without_area_are_counted_by_their_line(tmp_path, line, says):
    file = read(tmp_path, f"1 0.5 0.5 0.5 0.5\n{line}\n")
    assert len(file.objects) == 1
    assert file.empty == [says]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("3 0.5 0.5 0.5 0.5", "class 3, but there are only 3 class names (from 0)"),
        ("cat 0.5 0.5 0.5 0.5", "the class must be a number from 0, not 'cat'"),
        ("-1 0.5 0.5 0.5 0.5", "the class must be a number from 0, not '-1'"),
        ("1.5 0.5 0.5 0.5 0.5", "the class must be a number from 0, not '1.5'"),
        ("0 0.5 0.5 0.5", "3 numbers after the class: a box has 4, a polygon 6 or more"),
        ("0 0.5 0.5 0.5 0.5 0.9", "5 numbers after the class"),
        ("0", "0 numbers after the class"),
        ("0 0.5 x 0.5 0.5", "'x' is not a fraction of the image from 0 to 1"),
        ("0 0.5 nan 0.5 0.5", "'nan' is not a fraction"),
        ("0 120 80 30 20", "'120' is not a fraction"),
    ],
)
def test_invalid_lines_are_named(tmp_path, line, says):
    message = refusal(tmp_path, f"0 0.5 0.5 0.5 0.5\n\n{line}\n")
    assert message.startswith(f"/one.txt, line 3: {says}")
