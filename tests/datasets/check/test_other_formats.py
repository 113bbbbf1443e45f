"""Checking data in other formats than COCO: the same readers and flags as in training."""

import json

import pytest

from datasets.check.command import run
from tests.datasets.format_cases import voc_object, voc_xml, write_text, write_voc, write_yolo
from tests.datasets.photo_cases import write_photo


@pytest.fixture
def voc(tmp_path):
    return write_voc(tmp_path / "voc")


@pytest.mark.parametrize("flag", ["--data", "--voc_path"])
def test_both_splits(voc, capsys, flag):
    assert run([flag, str(voc)]) == 0
    captured = capsys.readouterr()
    for split in ("train", "val"):
        assert f"{split}: Pascal VOC, {voc}/ImageSets/Main/{split}.txt\n" in captured.out
    assert captured.err == ""


def test_what_the_reader_leaves_out_is_a_warning_with_its_place(voc, capsys):
    empty = voc_object("dog", (4, 4, 4, 4))
    write_text(voc / "Annotations" / "c.xml", voc_xml(voc_object(), empty))
    assert run(["--data", str(voc)]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = lines.index("  val: 1 box with zero area ignored [ignored_entries]")
    assert lines[found + 1] == "      c.xml, object 2 (dog)"


def test_images_of_another_size_are_errors(voc, capsys):
    xml = voc_xml(voc_object(box=(100, 100, 300, 200)), size_wh=(400, 300))
    write_text(voc / "Annotations" / "c.xml", xml)
    assert run(["--data", str(voc)]) == 1
    assert "[size_mismatch]" in capsys.readouterr().out


def test_json_is_all_of_the_output(voc, tmp_path, capsys):
    names = write_text(tmp_path / "names.txt", "dog\n")
    assert run(["--data", str(voc), "--classes", str(names), "--json", "-"]) == 0
    captured = capsys.readouterr()
    stats = json.loads(captured.out)["splits"]["train"]
    remark = "--classes (train): 2 objects of other classes ignored: cat 2"
    assert (stats["objects"], stats["remarks"], captured.err) == (2, [remark], "")
    assert run(["--data", str(voc), "--classes", str(names)]) == 0
    captured = capsys.readouterr()
    assert f"train.txt\n  {remark}\n" in captured.out and captured.err == ""


def test_a_held_out_part(tmp_path, capsys):
    write_yolo(tmp_path, {"train": list("abcd")})
    argv = ["--yolo_path", str(tmp_path), "--val_fraction", "0.5", "--json", "-"]
    assert run(argv) == 0
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert [splits[name]["images"] for name in ("train", "val")] == [2, 2]


def test_validation_data_alone(tmp_path, capsys):
    write_yolo(tmp_path, {"val": ["a"]})
    assert run(["--data", str(tmp_path), "--json", "-"]) == 0
    assert list(json.loads(capsys.readouterr().out)["splits"]) == ["val"]


def test_mistakes_are_one_line(tmp_path, capsys):
    assert run(["--data", str(tmp_path / "gone")]) == 2
    assert capsys.readouterr().err.startswith("python -m datasets.check: error: --data ")
    assert run([]) == 2
    assert "nothing to check: give --data, or --coco_path" in capsys.readouterr().err


def test_difficult_objects_have_their_name(voc, capsys):
    for stem in "abc":
        objects = voc_object(), voc_object("dog", (1, 1, 40, 30), difficult=1)
        write_text(voc / "Annotations" / f"{stem}.xml", voc_xml(*objects))
    assert run(["--data", str(voc)]) == 0
    text = capsys.readouterr().out
    assert "annotations       2: 2 objects\n" in text  # the difficult ones are not read
    assert "annotations       2: 1 object; 1 difficult object in 1 image\n" in text
    assert "crowd" not in text


@pytest.mark.parametrize("orientation", [3, 6])
def test_photos_of_yolo_data_are_upright(tmp_path, capsys, orientation):
    write_yolo(tmp_path)
    write_photo(tmp_path / "images/train/a.png", orientation)
    assert run(["--data", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "[exif_rotated]" in output and "[exif_ambiguous]" not in output
