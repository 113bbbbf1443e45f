"""What main.py says of splits that contradict each other, and of photos stored sideways."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import main
from datasets.shapes.directory import write_shapes
from tests.cheap_runs import with_pictures
from tests.datasets.format_cases import voc_object, voc_xml, write_text
from tests.datasets.photo_cases import UPRIGHT_WH, write_photo
from tests.export.small_files import BOXES, build
from tests.narrow_resnet import SHALLOW
from tests.programs import run_forked
from tests.test_main import FLAGS, ROOT, data, read_checkpoint, run, trained  # noqa: F401

SWAPPED = {1: "rectangle", 2: "ellipse"}


@pytest.fixture
def copied(data, tmp_path):  # noqa: F811
    """A copy of the data whose files a test may change."""
    return shutil.copytree(data, tmp_path / "data")


def edit(root, change, name="instances_val2017"):
    path = root / "annotations" / f"{name}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def rename(names):
    def change(content):
        for row in content["categories"]:
            row["name"] = names.get(row["id"], row["name"])

    return change


def error_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


def test_swapped_class_names_stop_training_and_nothing_is_written(copied, capsys, tmp_path):
    edit(copied, rename(SWAPPED))
    assert run(copied, "--epochs", "1", "--output_dir", tmp_path / "out") == 2
    line = error_line(capsys)
    assert "instances_train2017.json" in line and "instances_val2017.json" in line
    assert "id 1: in training 'ellipse', in validation 'rectangle'" in line
    assert not (tmp_path / "out" / "checkpoint.pth").exists()


def test_skipped_checks_train_with_the_names_of_training(copied, capsys, tmp_path):
    edit(copied, rename(SWAPPED))
    out = tmp_path / "out"
    assert run(copied, "--epochs", "1", "--output_dir", out, "--skip_checks") == 0
    assert read_checkpoint(out / "checkpoint.pth")["categories"][1] == "ellipse"
    assert "Warning (--skip_checks): classes differ" in capsys.readouterr().out


def test_a_class_of_one_split_is_reported_and_saved(copied, capsys, tmp_path):
    def other_classes(content):
        content["categories"] = [one for one in content["categories"] if one["id"] != 3]
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 3]
        content["categories"].append({"id": 60, "name": "only here"})

    edit(copied, other_classes)
    assert run(copied, "--epochs", "1", "--output_dir", tmp_path / "out") == 0
    names = read_checkpoint(tmp_path / "out" / "checkpoint.pth")["categories"]
    assert names[60] == "only here" and 3 in names
    (line,) = [one for one in capsys.readouterr().out.splitlines() if "in only one of" in one]
    assert f"{names[3]!r} in training only" in line and "'only here' in validation only" in line


@pytest.mark.parametrize("flags", [["--eval"], ["--epochs", "2"]])
def test_a_checkpoint_of_other_classes_stops(copied, trained, capsys, flags):  # noqa: F811
    for split in ("train", "val"):
        edit(copied, rename(SWAPPED), f"instances_{split}2017")
    assert run(copied, *flags, "--resume", trained / "checkpoint.pth") == 2
    line = error_line(capsys)
    assert f"checkpoint ({trained / 'checkpoint.pth'})" in line and "'ellipse'" in line
    flags = [*flags, "--skip_checks"]
    assert run(copied, *flags, "--resume", trained / "checkpoint.pth") == 0


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Weights alone, with a head of COCO's size."""
    sizes = {"dec_layers": 2, "dim_feedforward": 32, "num_queries": 6, "num_classes": 91}
    path = tmp_path_factory.mktemp("released") / "detr-r50-e632da11.pth"
    model = build(dataclasses.replace(BOXES, backbone=SHALLOW, **sizes))
    torch.save({"model": model.state_dict()}, path)
    return path


def test_released_weights_have_the_classes_of_coco(copied, released, capsys):
    assert run(copied, "--resume", released, "--epochs", "1") == 0  # trains the head again
    start = ["--eval", "--resume", released]
    edit(copied, rename({1: "person", 2: "dog", 3: "car", 4: "truck", 5: "boat"}))
    assert run(copied, *start) == 2
    assert "id 2: in checkpoint 'bicycle', in validation 'dog'" in error_line(capsys)
    assert run(copied, *start, "--skip_checks") == 0
    start[-1] = shutil.copy(released, copied / "other.pth")  # of unknown classes
    capsys.readouterr()
    assert run(copied, *start) == 0
    warning = "other.pth stores no class names; if its classes are COCO's, AP will be wrong"
    assert warning in capsys.readouterr().out
    start[-1] = released
    edit(copied, rename({2: "bicycle", 4: "motorcycle", 5: "airplane"}))
    assert run(copied, *start) == 0

    def without_names(content):
        for row in content["categories"]:
            del row["name"]

    edit(copied, without_names)  # the ids are all that the file says
    assert run(copied, *start) == 0


@pytest.mark.parametrize(("name", "says"), [("dog", None), ("emu", "id 91 (emu)")])
def test_pascal_voc_gets_the_ids_of_released_weights(released, tmp_path, capsys, name, says):
    found = tmp_path / "found.json"
    write_text(tmp_path / "a.xml", voc_xml(voc_object(name), size_wh=(64, 64)))
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    flags = ["--backbone", SHALLOW, "--data", tmp_path, "--val_fraction", "1", "--eval"]
    flags += ["--resume", released, "--output_dir", "", "--dump_detections", found]
    assert main.run([*FLAGS, *map(str, flags)]) == (0 if says is None else 2)
    if says is None:
        assert "the ground truth's category ids (18)" in capsys.readouterr().out
    else:
        line = error_line(capsys)
        assert f"objects of classes that the head in {released} does not have: {says}" in line


def test_a_frozen_detector_of_other_classes_stops(copied, trained, capsys):  # noqa: F811
    flags = ["--frozen_weights", trained / "checkpoint.pth", "--masks", "--epochs", "1"]
    for split in ("train", "val"):
        edit(copied, rename(SWAPPED), f"instances_{split}2017")
    assert run(copied, *flags) == 2
    assert f"checkpoint ({trained / 'checkpoint.pth'})" in error_line(capsys)


def test_evaluation_reports_with_the_names_of_the_checkpoint(copied, trained, capsys):  # noqa: F811
    edit(copied, rename({1: "blob"}))
    flags = ["--eval", "--resume", trained / "checkpoint.pth", "--skip_checks"]
    assert run(copied, *flags) == 0
    table = capsys.readouterr().out.split("By class, bbox:")[1]
    assert "ellipse" in table and "blob" not in table


def test_more_objects_than_queries_stop_training(data, capsys):  # noqa: F811
    assert run(data, "--epochs", "1", "--num_queries", "1") == 2
    assert "instances_train2017.json: some images have more objects" in error_line(capsys)
    assert run(data, "--epochs", "1", "--num_queries", "1", "--skip_checks") == 0


def test_things_and_stuff_of_the_splits_must_agree(capsys, tmp_path):
    write_shapes(tmp_path, num_train=2, num_val=2, image_size=64)

    def exchange(content):
        content["categories"][0]["isthing"] = 0

    edit(tmp_path, exchange, "panoptic_val2017")
    flags = ["--dataset_file", "coco_panoptic", "--coco_panoptic_path", str(tmp_path)]
    flags += ["--masks", "--epochs", "1"]
    assert run(tmp_path, *flags) == 2
    assert "id 1: thing in training, stuff in validation" in error_line(capsys)


def test_photos_stored_sideways_are_drawn_upright(tmp_path, capsys):
    for split in ("train", "val"):
        images, annotations = [], []
        for number, orientation in enumerate((6, 8, 1, 5), start=1):
            write_photo(tmp_path / f"{split}2017" / f"{number}.jpg", orientation)
            images.append({"id": number, "file_name": f"{number}.jpg"})
            images[-1] |= {"width": UPRIGHT_WH[0], "height": UPRIGHT_WH[1]}
            fields = {"image_id": number, "category_id": 1, "bbox": [6, 4, 12, 8]}
            annotations.append({"id": number, **fields})
        content = {"images": images, "annotations": annotations}
        content["categories"] = [{"id": 1, "name": "patch"}]
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    out = tmp_path / "out"
    with with_pictures():
        assert run(tmp_path, "--epochs", "2", "--num_workers", "2", "--output_dir", out) == 0
    printed = capsys.readouterr().out.splitlines()
    lines = [line for line in printed if "EXIF orientation applied" in line]
    assert len(lines) == 2
    assert "instances_train2017.json" in lines[0] and "instances_val2017.json" in lines[1]
    with Image.open(out / "detections.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    red = (pixels[..., 0] > 180) & (pixels[..., 1:].max(axis=-1) < 90)
    # Two images per row, each twice: the patch has one size and one place in all of them.
    quarters = [half for row in np.array_split(red, 2) for half in np.array_split(row, 2, axis=1)]
    extents = [np.ptp(np.nonzero(quarter), axis=1) for quarter in quarters]
    assert min(quarter.mean() for quarter in quarters) > 0.01
    assert all(abs(extent - extents[0]).max() <= 2 for extent in extents[1:])


def test_an_image_of_another_size_ends_the_process_with_workers(copied):
    first = sorted((copied / "train2017").iterdir())[0]
    Image.new("RGB", (10, 10)).save(first)
    command = [sys.executable, str(ROOT / "main.py"), *FLAGS, "--coco_path", str(copied)]
    done = run_forked(
        [*command, "--epochs", "1", "--num_workers", "2"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("main.py: error: image id ") and str(first) in line
    assert "is 10 x 10 pixels" in line and "Traceback" not in line
