"""Which format is recognized, and what is said about anything else."""

import pytest

from datasets.formats.recognize import recognize, recognize_as, split_names
from tests.datasets.format_cases import (
    voc_object,
    voc_xml,
    write_coco,
    write_image,
    write_text,
    write_voc,
    write_yolo,
)
from util.errors import UserError


def refusal(path):
    with pytest.raises(UserError) as caught:
        recognize(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_formats(tmp_path):
    write_coco(tmp_path / "c", tmp_path / "c" / "mine.json")
    write_voc(tmp_path / "v")
    write_yolo(tmp_path / "y")
    for name, expected in (("c", "COCO"), ("v", "Pascal VOC"), ("y", "YOLO")):
        assert recognize(tmp_path / name).format == expected
        assert recognize(str(tmp_path / name)).format == expected
    assert recognize(tmp_path / "y" / "data.yaml").format == "YOLO"
    assert recognize(tmp_path / "c" / "mine.json").format == "COCO"


def test_the_only_subfolder(tmp_path):
    write_yolo(tmp_path / "unpacked" / "animals")
    assert recognize(tmp_path).format == "YOLO"


def test_splits(tmp_path):
    write_yolo(tmp_path / "both")
    write_yolo(tmp_path / "train", {"train": ["a"]})
    write_yolo(tmp_path / "val", {"val": ["a"]})
    names = [split_names(recognize(tmp_path / name)) for name in ("both", "train", "val")]
    assert names == [["train", "val"], ["train", "val"], ["val"]]


def test_what_does_not_exist(tmp_path):
    write_yolo(tmp_path / "animals")
    assert refusal(tmp_path / "animal") == (
        f"--data {tmp_path}/animal does not exist, did you mean animals?"
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("data.zip", "is an archive: unpack it and give its folder"),
        ("a.xml", "give the folder of the dataset, its data.yaml or a COCO JSON"),
        ("photo.jpg", "give the folder of the dataset"),
    ],
)
def test_other_files(tmp_path, name, says):
    write_text(tmp_path / name, "x")
    assert says in refusal(tmp_path / name)


def test_other_folders(tmp_path):
    assert "it is empty; expected COCO JSON (" in refusal(tmp_path)
    write_image(tmp_path / "a.png")
    assert "no data in a known format: it contains a.png; expected" in refusal(tmp_path)


def test_a_format_in_an_unusual_place(tmp_path):
    file = write_text(tmp_path / "a" / "b" / "one.xml", voc_xml(voc_object()))
    write_image(tmp_path / "c" / "one.jpg")
    assert f"found Pascal VOC files such as {file}, but no known layout" in refusal(tmp_path)


def test_a_given_format(tmp_path):
    write_voc(tmp_path / "both")
    write_yolo(tmp_path / "both")
    assert recognize_as("voc", tmp_path / "both").format == "Pascal VOC"
    assert recognize_as("yolo", tmp_path / "both" / "data.yaml").format == "YOLO"
    (tmp_path / "empty").mkdir()
    for name in ("voc", "yolo"):
        with pytest.raises(UserError, match=f"--{name}_path .*: expected .*read with --data$"):
            recognize_as(name, tmp_path / "empty")
        with pytest.raises(UserError, match=f"--{name}_path .*bot does not exist, did you mean b"):
            recognize_as(name, tmp_path / "bot")
