"""Whatever a file holds, it is read as JSON or refused in one line."""

import json
import os
from pathlib import Path

import pytest

from datasets.annotations.coco_file import read_json
from util.errors import UserError
from util.text import shortened


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_json(path, "file", "get another")
    message = str(caught.value)
    assert message.startswith(f"file {path} ")
    assert message.endswith("; get another")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b'{"images": [{"id": 1}, {"i', "is truncated after 26 characters"),
        (b'{"images": [{"id": 1},', "is truncated"),
        (b'{"images" 3}', "is not JSON: Expecting ':' delimiter: line 1 column 11"),
        (b"<!DOCTYPE html><html>404", "looks like a web page: download the file itself"),
        (b'{"id": 1}\n{"id": 2}\n', "looks like JSON Lines"),
        (
            b'<?xml version="1.0"?>\n<annotation>\n',
            "Pascal VOC XML: read its folder with --data",
        ),
        (b"<annotations><version>1.1", "looks like CVAT XML"),
        (b"<rss>", "looks like XML"),
        (b"# classes\ntrain: images\nnc: 2\nnames: [a, b]\n", "the YAML file of a YOLO dataset"),
        (b"images: a/\n", "looks like YAML"),
        (b"filename,xmin,ymin\na.jpg,1,2\n", "looks like CSV: convert it to COCO JSON"),
        (b"0 0.5 0.5 0.25 .25\n", "looks like YOLO labels"),
        (b"PK\x03\x04\xff", "looks like a zip archive: unpack it"),
        (b"\xff\xd8\xff\xe0", "looks like an image"),
        (b"\x80\x04\x95\x00\x00\x00", "not UTF-8 text"),  # a pickle
        (b"\x1f\x8b\x08\x00\xff\xfe", "looks like a gzip archive: unpack it"),
        ('{"images": []}'.encode("utf-16"), "not UTF-8 text; save it as UTF-8"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b'{"id": ' + b"9" * 5000 + b"}", "integer with thousands of digits"),
        (b"\x00" * 100, "is not JSON"),
    ],
)
def test_what_is_no_json(tmp_path, content, says):
    (tmp_path / "bad.json").write_bytes(content)
    assert says in refusal(tmp_path / "bad.json")


def test_what_is_no_file(tmp_path):
    assert "No such file" in refusal(tmp_path / "gone.json")
    assert "is a folder without JSON" in refusal(tmp_path)
    (tmp_path / "a.xml").write_text("<annotation>")
    assert "is a folder; it looks like Pascal VOC" in refusal(tmp_path)
    (tmp_path / "b.json").touch()
    assert f"is a folder; give a file in it, such as {tmp_path / 'b.json'}" in refusal(tmp_path)
    assert "too long" in refusal(tmp_path / ("x" * 5000))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_right_to_read(tmp_path):
    (tmp_path / "mine.json").touch(mode=0)
    assert "Permission denied" in refusal(tmp_path / "mine.json")


def test_the_right_to_read_is_asked_of_the_system(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert "Permission denied" in refusal(tmp_path / "any.json")


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"\xef\xbb\xbf[1]", [1]),  # with a byte order mark, as from some editors
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b"[Infinity, 1e999]", [float("inf")] * 2),
        (b'"\\ud800"', "\ud800"),
        (b"[" * 200 + b"]" * 200, None),
    ],
)
def test_what_is_odd_but_json(tmp_path, content, value):
    (tmp_path / "odd.json").write_bytes(content)
    read = read_json(tmp_path / "odd.json", "file", "get another")
    assert read == value or value is None


@pytest.mark.parametrize(
    "value", ["x" * 10**6, list(range(10**5)), {str(i): i for i in range(1000)}, 10**4000]
)
def test_long_values_are_shortened(value):
    assert len(shortened(value)) <= 60


def test_values_nested_nearly_without_end_are_shortened():
    value = json.loads("[" * 900 + "]" * 900)
    assert shortened(value) == "[[[[...]]]]"
