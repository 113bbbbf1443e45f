"""predict.py from its command line to its files."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

import main
import predict
import prediction.detector
from datasets.shapes.directory import write_shapes
from tests.datasets.photo_cases import ORIENTATIONS, upright_image, write_photo
from tests.export.small_files import NARROW_BOXES, write_checkpoint
from tests.prediction.red_finder import red_finder

ROOT = Path(predict.__file__).resolve().parent


@pytest.fixture
def model(monkeypatch):
    """The stand-in, in the place of the model of any checkpoint."""
    loaded = [red_finder()]
    monkeypatch.setattr(prediction.detector, "from_file", lambda *_, **__: loaded[0])

    def use(**options):
        loaded[0] = red_finder(**options)

    return use


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Two photos, one of them in a sub-folder, and a file that is no image."""
    monkeypatch.chdir(tmp_path)
    write_photo(tmp_path / "photos/a.jpg", 1)
    write_photo(tmp_path / "photos/sub/b.png", 1)
    (tmp_path / "photos/notes.txt").touch()
    return tmp_path / "photos"


def run(*arguments):
    flags = ["--checkpoint", "c.pth", "--output_dir", "out", "--device", "cpu"]
    return predict.main([*map(str, arguments), *flags])


def results():
    return json.loads(Path("out/detections.json").read_text())


def files_in(folder):
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())


# ---- results -------------------------------------------------------------------------------------


def test_a_folder_gives_pictures_json_and_csv(model, photos, capsys):
    assert run("photos") == 0
    assert files_in("out") == [
        "detections.csv",
        "detections.json",
        "pictures/a.jpg",
        "pictures/sub/b.png",
    ]
    assert [image["file"] for image in results()["images"]] == ["photos/a.jpg", "photos/sub/b.png"]
    assert results()["threshold"] == 0.5 and results()["model"] == "c.pth"
    printed = capsys.readouterr().out
    assert "2 classes (red patch, other); threshold 0.5 (default, no best F1 is stored)" in printed
    assert "photos/sub/b.png: 1 red patch" in printed
    assert "1 file ignored: no image suffix" in printed
    assert printed.endswith("2 images, 2 detections; results in out\n")


def test_the_precision_is_chosen_or_warned_of(model, photos, monkeypatch, capsys):
    monkeypatch.setattr("util.system.precision.has_fast_bf16", lambda device: False)
    monkeypatch.setattr("util.system.precision._onednn_supports", lambda amp: False)
    assert run("photos", "--amp", "auto") == 0
    chosen = "Computing in float32 (--amp auto: this processor has no fast bf16)"
    assert chosen in capsys.readouterr().out.splitlines()
    assert run("photos", "--amp", "bf16") == 0
    assert "Warning: --amp bf16 is many times slower than --amp off" in capsys.readouterr().out
    assert run("photos") == 0
    assert not {"Computing", "Warning"} & set(capsys.readouterr().out.split())


def test_results_of_an_earlier_prediction_are_named(model, photos, capsys):
    line = "out also contains results of an earlier prediction: "
    assert run("photos", "--counts", "--crops", "--json", "coco") == 0
    assert line not in capsys.readouterr().out
    before = {name: Path("out", name).read_bytes() for name in ("counts.csv", "images.json")}
    assert run("photos/a.jpg", "--no_pictures") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == line + "counts.csv, images.json, pictures, crops"
    assert {name: Path("out", name).read_bytes() for name in before} == before


@pytest.mark.parametrize("flags", [[], ["--json", "coco"], ["--counts", "--crops"]])
def test_results_of_the_same_flags_are_all_new(model, photos, capsys, flags):
    model(panoptic=True)
    for _ in range(2):
        assert run("photos", *flags) == 0
        assert "also contains" not in capsys.readouterr().out


def test_photos_of_all_orientations_give_one_result(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for orientation in ORIENTATIONS:
        write_photo(tmp_path / f"photos/{orientation}.jpg", orientation)
    assert run("photos") == 0
    images = results()["images"]
    assert len(images) == len(ORIENTATIONS)
    for image in images:
        assert (image["width"], image["height"]) == (48, 32)
        np.testing.assert_allclose(image["detections"][0]["box_xyxy"], [6, 4, 18, 12], atol=1.5)


@pytest.mark.parametrize(("stored", "expected"), [(0.35, 2), (0.95, 0), (None, 1)])
def test_the_threshold_is_that_of_the_training(stored, expected, model, photos, capsys):
    model(best_threshold=stored)
    assert run("photos/a.jpg") == 0
    assert len(results()["images"][0]["detections"]) == expected
    assert ("best F1 on the validation images" in capsys.readouterr().out) == (stored is not None)
    assert run("photos/a.jpg", "--threshold", "0.1") == 0
    assert len(results()["images"][0]["detections"]) == 2


def test_classes_crops_and_counts(model, photos):
    assert run("photos", "--threshold", "0", "--classes", " other", "--crops", "--counts") == 0
    assert {d["name"] for image in results()["images"] for d in image["detections"]} == {"other"}
    assert files_in("out/crops") == ["other/a_1.jpg", "other/sub/b_1.png"]
    with open("out/counts.csv", encoding="utf-8") as file:
        assert next(csv.reader(file)) == ["file", "frame", "other", "all"]


def test_no_pictures(model, photos):
    assert run("photos", "--no_pictures") == 0
    assert files_in("out") == ["detections.csv", "detections.json"]
    assert "picture" not in results()["images"][0]


def test_a_second_run_replaces_the_files_of_the_first(model, photos):
    assert run("photos") == 0
    assert run("photos/a.jpg", "photos/sub", "--threshold", "0.99") == 0
    assert [image["detections"] for image in results()["images"]] == [[], []]


def test_coco_results_with_running_numbers(model, photos):
    assert run("photos", "--json", "coco") == 0
    truth = COCO("out/images.json")
    assert len(truth.loadRes("out/detections.json").anns) == 2


def test_coco_results_for_an_annotation_file(model, photos, capsys):
    """Boxes refer to the photo as stored, unless the file has the size of the upright photo."""
    write_photo(photos / "turned.jpg", 3)
    write_photo(photos / "sideways.jpg", 6)
    rows = [
        {"id": 6, "file_name": "sideways.jpg", "width": 48, "height": 32},
        {"id": 7, "file_name": "turned.jpg", "width": 48, "height": 32},
        {"id": 8, "file_name": "sub/b.png"},
        {"id": 9, "file_name": "a.jpg"},
    ]
    classes = [{"id": 1, "name": "blue"}, {"id": "text"}]
    Path("ann.json").write_text(json.dumps({"images": rows, "categories": classes}))
    assert run("photos", "--json", "coco", "--ann", "ann.json") == 0
    assert "--ann ann.json has other category ids than the model: id 1" in capsys.readouterr().out
    boxes = {entry["image_id"]: entry["bbox"] for entry in results()}
    np.testing.assert_allclose(boxes[8], [6, 4, 12, 8], atol=1)
    np.testing.assert_allclose(boxes[6], [6, 4, 12, 8], atol=1.5)
    np.testing.assert_allclose(boxes[7], [48 - 18, 32 - 12, 12, 8], atol=1)
    assert not Path("out/images.json").exists()


def test_masks_and_panoptic_maps(model, photos):
    model(panoptic=True)
    assert run("photos", "--json", "names") == 0
    assert {"panoptic.json", "panoptic/a.jpg.png", "panoptic/sub/b.png"} <= {*files_in("out")}
    assert (results()["threshold"], results()["segment_threshold"]) == (0.5, 0.1)
    image = results()["images"][0]
    assert [segment["name"] for segment in image["segments"]] == ["red patch", "other"]
    assert "segmentation" in image["detections"][0]


# ---- broken files and interruption ---------------------------------------------------------------


def test_a_broken_image_is_reported_and_the_rest_goes_on(model, photos, capsys):
    (photos / "a0.jpg").write_bytes(b"broken")
    assert run("photos") == 0
    assert len(results()["images"]) == 2
    (failed,) = results()["failed"]
    assert failed["file"] == "photos/a0.jpg"
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("skipped: photos/a0.jpg cannot be read: it is in no known image")
    assert "2 images, 2 detections; 1 input skipped" in output.out


def test_without_any_image_the_status_is_2(model, photos, capsys):
    (photos / "a.jpg").write_bytes(b"broken")
    assert run("photos/a.jpg") == 2
    assert "no image could be processed, see above" in capsys.readouterr().err
    assert results()["images"] == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_valid_files(signum, model, photos, monkeypatch, capsys):
    from prediction.outputs.pictures import Pictures

    add = Pictures.add

    def interrupt(*arguments):
        add(*arguments)
        os.kill(os.getpid(), signum)

    monkeypatch.setattr(Pictures, "add", interrupt)
    assert run("photos", "--batch_size", "1") == 128 + signum
    assert len(results()["images"]) == 1
    assert Path("out/detections.csv").read_text().count("\n") == 2
    assert f"stopped by {signum.name} after 1 image" in capsys.readouterr().err
    assert not [name for name in files_in("out") if name.endswith(".tmp")]


def test_an_error_leaves_valid_files(model, photos, monkeypatch):
    from prediction.outputs.pictures import Pictures

    monkeypatch.setattr(Pictures, "add", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("photos")
    assert len(results()["images"]) == 1


def test_too_little_memory_names_the_batch_size(model, photos, monkeypatch, capsys):
    def fail(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(prediction.detector, "forward_pass", fail)
    assert run("photos") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "out of memory (CUDA out of memory. Tried to allocate); lower --batch_size" in line
    assert results()["images"] == []


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos", "--hub", "detr_demo"], "either --checkpoint FILE or --hub NAME"),
        (["photos", "--ann", "a.json"], "add --json coco"),
        (["photos", "--points", "1,2"], "add --attention"),
        (["photos", "--fps", "2"], "--fps applies to videos"),
        (["photos/no.jpg"], "photos/no.jpg does not exist"),
        (["photos", "--classes", "red"], "the model has no class 'red'"),
        (["photos", "--json", "coco", "--ann", "ann.json"], "photos/a.jpg is not among the images"),
        (["photos", "--json", "coco", "--ann", "no.json"], "no.json"),
        (["photos", "--output_dir", "photos/a.jpg"], "--output_dir photos/a.jpg is a file"),
        (["photos", "--output_dir", "photos"], "is inside --output_dir"),
        (["photos", "--output_dir", ""], "give a folder for the results"),
        (["photos", "--output_dir", "photos/a.jpg/x"], "x cannot be created (Not a directory)"),
        (["photos", "--device", "nowhere"], "--device nowhere"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, model, photos, capsys):
    Path("ann.json").write_text(json.dumps({"images": [], "categories": []}))
    flags = ["--checkpoint", "c.pth", "--output_dir", "out", "--device", "cpu"]
    assert predict.main([*flags, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("predict.py: error: ") and message in line
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fps", "0"], "'0' is not a positive number"),
        (["--points", "3"], "'3' is not a point X,Y in pixels"),
        (["--points", "1,nan"], "'1,nan' is not a point"),
        (["--threshold", "50"], "for 50 % use 0.5"),
        (["--treshold", "1"], "did you mean --threshold?"),
    ],
)
def test_a_wrong_value(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        predict.main(["photo.jpg", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_flags_of_a_checkpoint_are_not_for_a_released_model(photos, capsys):
    assert predict.main(["photos", "--hub", "detr_demo", "--output_dir", "out", "--ema"]) == 2
    assert "require --checkpoint, not --hub" in capsys.readouterr().err


# ---- the whole program ---------------------------------------------------------------------------


def test_the_program_predicts_with_a_checkpoint(tmp_path):
    write_checkpoint(tmp_path / "c.pth", categories={row: f"name {row}" for row in range(7)})
    upright_image((90, 60)).save(tmp_path / "photo.png")
    command = [sys.executable, str(ROOT / "predict.py"), "photo.png", "--checkpoint", "c.pth"]
    result = subprocess.run(
        [*command, "--output_dir", "out", "--threshold", "0", "--device", "cpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "out/detections.json").read_text())
    assert len(content["images"][0]["detections"]) == 5
    with Image.open(tmp_path / "out/pictures/photo.png") as picture:
        assert picture.size == (450, 300)


def test_help_does_not_wait_for_pytorch():
    parse = "import sys, predict; predict.build_parser().format_help()"
    script = f"{parse}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_the_api_is_imported_from_predict():
    from predict import Detector

    assert Detector is prediction.detector.Detector
    with pytest.raises(AttributeError):
        predict.detector  # noqa: B018


def test_coco_results_are_those_of_an_evaluation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path / "data", num_train=1, num_val=6, image_size=64)
    write_checkpoint(tmp_path / "c.pth", NARROW_BOXES)
    flags = ["--coco_path", "data", "--eval", "--resume", "c.pth", "--dump_detections", "eval.json"]
    flags += ["--output_dir", "", "--device", "cpu", "--num_workers", "0", "--skip_checks"]
    assert main.run([*flags, "--eval_batch_size", "1"]) == 0
    ann_file = "data/annotations/instances_val2017.json"
    assert run("data/val2017", "--json", "coco", "--ann", ann_file, "--threshold", "0") == 0

    def by_image(entries):
        rows = sorted((e["image_id"], -e["score"], *e["bbox"], e["category_id"]) for e in entries)
        return np.array(rows)

    expected = by_image(json.loads(Path("eval.json").read_text()))
    assert len(expected) == 6 * NARROW_BOXES.num_queries
    np.testing.assert_allclose(by_image(results()), expected, rtol=1e-4, atol=1e-4)


def test_a_trained_model_brings_its_threshold(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path / "data", num_train=2, num_val=4, image_size=64)
    network = {k: v for k, v in NARROW_BOXES.flags().items() if not isinstance(v, bool)}
    flags = [f"--{name}={value}" for name, value in network.items()]
    flags += ["--coco_path", "data", "--output_dir", "run", "--epochs", "1", "--device", "cpu"]
    flags += ["--backbone_weights", "none", "--num_workers", "0", "--scales", "64"]
    assert main.run(flags) == 0
    # None if no detection is correct, which rounding can decide here.
    thresholds = torch.load("run/checkpoint.pth", weights_only=True)["thresholds"]
    best = thresholds["best_f1"] if thresholds else 0.5
    predict_flags = ["--checkpoint", "run/checkpoint.pth", "--output_dir", "out", "--device", "cpu"]
    assert predict.main(["data/val2017", *predict_flags]) == 0
    assert results()["threshold"] == best
    reason = "best F1 on the validation images" if thresholds else "default, no best F1 is stored"
    assert f"threshold {best:.3g} ({reason})" in capsys.readouterr().out
