"""The command that writes COCO JSON."""

import json
import shlex
from pathlib import Path

import pytest

import main
from datasets.coco import CocoDetection
from datasets.convert import run
from tests.datasets.format_cases import (
    boxes_by_image,
    coco_tables,
    read,
    write_coco,
    write_image,
    write_text,
    write_voc,
    write_yolo,
)


def converted(capsys, *argv: object) -> list[str]:
    assert run([str(word) for word in argv]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


def test_the_files_hold_what_training_reads(tmp_path, capsys):
    root = write_voc(tmp_path / "my data")
    lines = converted(capsys, root, "--output_dir", tmp_path / "out")
    for split in ("train", "val"):
        written = json.loads((tmp_path / "out" / f"{split}.json").read_text())
        assert boxes_by_image(written) == boxes_by_image(read(root, split).data)
        assert written["annotations"][0].keys() == {
            *("id", "image_id", "category_id", "bbox", "area", "iscrowd", "difficult")
        }
    assert lines[-2] == f"Wrote {tmp_path}/out. Train with:"
    assert lines[0].startswith("Training data: Pascal VOC, ")


def test_the_printed_command_reads_them(tmp_path, capsys):
    lines = converted(capsys, write_yolo(tmp_path / "my data"), "--output_dir", tmp_path / "out")
    program, script, *flags = shlex.split(lines[-1])
    assert (program, script) == ("python", "main.py")
    args = main.build_parser().parse_args(flags)
    data = CocoDetection(args.val_images, args.val_ann, None, False)
    assert data[0][1]["boxes"].tolist() == [[15, 7.5, 25, 22.5]]


def test_data_without_split(tmp_path, capsys):
    write_yolo(tmp_path, {"train": list("abcd")})
    flags = ["--val_fraction", "0.5", "--seed", "1"]
    converted(capsys, tmp_path, "--output_dir", tmp_path / "out", *flags)
    written = [json.loads((tmp_path / "out" / f"{n}.json").read_text()) for n in ("train", "val")]
    assert [len(one["images"]) for one in written] == [2, 2]


def test_validation_data_alone(tmp_path, capsys):
    write_yolo(tmp_path, {"val": ["a"]})
    lines = converted(capsys, tmp_path, "--output_dir", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["val.json"]
    assert "--train_ann" not in lines[-1]


def test_resized_images_are_reported(tmp_path, capsys):
    root = write_voc(tmp_path / "voc")
    write_image(root / "JPEGImages" / "c.jpg", (80, 60))
    lines = converted(capsys, root, "--output_dir", tmp_path / "out")
    problem = (
        "  1 image probably resized after annotation: c.xml, 40 x 30, but the image is 80 x 60"
    )
    assert problem in lines


def test_difficult_objects_and_class_names(tmp_path, capsys):
    root = write_voc(tmp_path / "voc", {"train": ["a"], "val": ["ü b"]})
    for file in (root / "Annotations").iterdir():
        write_text(file, file.read_text().replace("<difficult>0", "<difficult>1", 1))
    names = write_text(tmp_path / "names.txt", "cat\n")
    lines = converted(capsys, root, "--output_dir", tmp_path / "out", "--classes", names)
    assert "  1 object marked difficult not used in training; --keep_difficult uses them" in lines
    written = json.loads((tmp_path / "out" / "val.json").read_text(encoding="utf-8"))
    assert written["images"][0]["file_name"] == "ü b.jpg"
    assert written["annotations"][0]["iscrowd"] == written["annotations"][0]["difficult"] == 1


def test_ids_that_are_strings_are_kept(tmp_path, capsys):
    data = coco_tables("abcd")
    for row in data["annotations"]:
        row["category_id"] = {1: "cat-id", 2: 2}[row["category_id"]]
    data["categories"][0]["id"] = "cat-id"
    write_text(write_coco(tmp_path, tmp_path / "mine.json", "abcd"), json.dumps(data))
    converted(capsys, tmp_path / "mine.json", "--output_dir", tmp_path / "out")
    written = [json.loads((tmp_path / "out" / f"{n}.json").read_text()) for n in ("train", "val")]
    assert written[0]["categories"] == written[1]["categories"] == data["categories"]
    rows = [row for one in written for row in one["annotations"]]
    assert sorted(rows, key=lambda row: row["id"]) == data["annotations"]


@pytest.mark.parametrize(
    ("data", "out", "says"),
    [("gone", "out", "--data gone does not exist"), (".", "file", "--output_dir file is a file")],
)
def test_mistakes(tmp_path, monkeypatch, capsys, data, out, says):
    monkeypatch.chdir(write_yolo(tmp_path))
    Path("file").touch()
    assert run([data, "--output_dir", out]) == 2
    assert capsys.readouterr().err.startswith(f"python -m datasets.convert: error: {says}")


@pytest.mark.parametrize("names", [["train"], ["train", "val"]])
def test_the_data_itself_is_not_replaced(tmp_path, capsys, names):
    for name in names:
        write_coco(tmp_path, tmp_path / f"{name}.json", "abcd")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert run([str(tmp_path), "--output_dir", str(tmp_path)]) == 2
    assert "train.json would be replaced, but it is the data to convert" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
