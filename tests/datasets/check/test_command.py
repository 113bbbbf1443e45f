"""The command: exit status, outputs, flags."""

import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from datasets.check import command
from datasets.check.command import run
from tests.datasets.check_cases import write_split
from tests.programs import run_forked

ROOT = Path(command.__file__).parents[2]


@pytest.fixture
def coco(tmp_path):
    """A directory in COCO's layout, free of faults."""
    (tmp_path / "annotations").mkdir()
    for number, name in enumerate(("train2017", "val2017")):
        data = write_split(tmp_path, name, first_seed=50 * number)
        write_annotations(tmp_path, name, data)
    return tmp_path


def write_annotations(root, name, data):
    (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(data))


def edit(root, name, change):
    data = json.loads((root / "annotations" / f"instances_{name}.json").read_text())
    change(data)
    write_annotations(root, name, data)


def test_a_right_data_set(coco, capsys):
    assert run(["--coco_path", str(coco)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "train: " in captured.out and "val: " in captured.out
    assert captured.out.endswith("No errors, no warnings\n")


def test_status_1_needs_an_error_not_a_warning(coco, capsys):
    edit(coco, "val2017", lambda data: data["annotations"][0].update(bbox=[1, 1, 0, 0]))
    assert run(["--coco_path", str(coco)]) == 0
    assert "No errors, 1 warning" in capsys.readouterr().out
    edit(coco, "val2017", lambda data: data["annotations"][0].update(category_id=5))
    assert run(["--coco_path", str(coco)]) == 1
    assert "annotation id 10, image id 1, val20171.png" in capsys.readouterr().out


def test_a_number_of_classes_that_is_too_small(coco, capsys):
    assert run(["--coco_path", str(coco), "--num_classes", "2", "--skip_images"]) == 1
    told = "--num_classes 2 is too small: the largest category id is 2, so 3 are needed; omit"
    assert told in capsys.readouterr().out


def test_images_in_another_folder_are_reported_with_the_flag(coco, capsys):
    edit(coco, "val2017", lambda data: [set_folder(row, "val2017") for row in data["images"]])
    assert run(["--coco_path", str(coco)]) == 1
    output = capsys.readouterr().out
    assert "val: 4 images have no file; every file_name already begins with val2017/" in output
    assert f"use --val_images {coco} [missing_file]" in output


def set_folder(row, folder):
    row["file_name"] = f"{folder}/{row['file_name']}"


def test_one_split_alone(coco, capsys):
    images, ann = coco / "val2017", coco / "annotations" / "instances_val2017.json"
    assert run(["--val_images", str(images), "--val_ann", str(ann), "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["splits"]) == ["val"]
    assert report["classes"]["table"] == [
        {"id": 1, "name": "cat", "val": {"objects": 4, "images": 4}},
        {"id": 2, "name": "dog", "val": {"objects": 4, "images": 4}},
    ]


def test_json_in_addition_to_the_text(coco, tmp_path, capsys):
    edit(coco, "train2017", lambda data: data["images"][0].update(width=9))
    target = tmp_path / "report.json"
    assert run(["--coco_path", str(coco), "--json", str(target)]) == 1
    assert "size_mismatch" in capsys.readouterr().out
    report = json.loads(target.read_text())
    assert report["has_errors"] is True
    (error,) = report["errors"]
    assert (error["kind"], error["split"], error["count"]) == ("size_mismatch", "train", 1)
    assert error["examples"][0]["image_id"] == 1
    assert error["examples"][0]["file_name"] == "train20171.png"
    assert report["splits"]["train"]["images_by_mode"] == {"RGB": 4}


def test_json_holds_more_places_than_the_text(coco, capsys):
    def add(data):
        one = data["annotations"][0]
        data["annotations"] += [{**one, "id": 100 + i, "bbox": [1, 1, 0, i]} for i in range(1500)]

    edit(coco, "train2017", add)
    run(["--coco_path", str(coco), "--skip_images"])
    assert "and 1497 more" in capsys.readouterr().out
    run(["--coco_path", str(coco), "--skip_images", "--json", "-"])
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert (warning["count"], len(warning["examples"])) == (1500, 1000)


@pytest.mark.parametrize("count", [1, 3])
def test_pictures(coco, tmp_path, count):
    target = tmp_path / "sample.jpg"
    flags = ["--pictures", str(target), "--num_pictures", str(count)]
    assert run(["--coco_path", str(coco), "--skip_images", *flags]) == 0
    with Image.open(target) as sheet:
        assert sheet.format == "JPEG"
        # Two in a row, each enlarged to 448x336 and below its caption.
        assert 2 * 448 < sheet.width < 2 * 448 + 50
        assert count * 336 < sheet.height < count * 336 + 150


def test_pictures_of_files_that_cannot_be_read(coco, tmp_path, capsys):
    for path in [*coco.glob("train2017/*"), *coco.glob("val2017/*")]:
        path.write_text("broken")
    target = tmp_path / "sample.png"
    assert run(["--coco_path", str(coco), "--pictures", str(target)]) == 1
    assert not target.exists()
    assert "was not written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("", "nothing to check"),
        ("--train_ann a.json", "--train_images"),
        ("--coco_path /nowhere", "--coco_path /nowhere does not exist"),
        ("--coco_path {} --num_queries 0", "--num_queries 0 must be at least 1"),
        ("--coco_path {} --num_classes 0", "--num_classes 0 must be at least 1"),
        ("--coco_path {} --num_workers -1", "--num_workers -1 must be at least 0"),
        ("--coco_path {} --pictures a.png --num_pictures 0", "--num_pictures 0"),
        ("--coco_path {} --pictures a.xyz", "'.xyz'"),
        ("--coco_path {} --json /nowhere/a.json", "its folder does not exist"),
        ("--coco_path {} --val_ann /nowhere.json", "annotation file /nowhere.json does not exist"),
        ("--coco_path {} --val_ann {}/train2017/train20171.png", "is not JSON"),
    ],
)
def test_mistakes_on_the_command_line(coco, capsys, flags, says):
    assert run(flags.format(coco, coco).split()) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_unknown_flags_end_with_status_2(capsys):
    with pytest.raises(SystemExit) as ended:
        run(["--coco_paths", "x", "--bogus"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_as_a_program_json_is_alone_on_stdout(coco):
    command = [sys.executable, "-m", "datasets.check", "--coco_path", str(coco), "--json", "-"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = run_forked(command, cwd=ROOT, capture_output=True, env=environment, check=True)
    assert json.loads(ended.stdout)["errors"] == []
    assert ended.stderr == b""


def test_interrupted(coco, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("datasets.check.images.to_rgb", interrupt)
    assert run(["--coco_path", str(coco), "--num_workers", "0"]) == 130
    assert run(["--coco_path", str(coco), "--num_workers", "2"]) == 130
