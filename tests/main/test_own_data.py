"""Training and evaluation on data in other formats, end to end."""

import json
import random
import re
import shutil

import pytest
from PIL import Image

import main
from export import weights
from tests.datasets.format_cases import CLASSES, voc_object, voc_xml, write_text, write_yolo
from tests.test_main import SIMPLE, assert_one_line, read_checkpoint
from training import evaluation


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """Eight images with XML files next to them, not split; images of random boxes."""
    root = tmp_path_factory.mktemp("data") / "animals"
    choose = random.Random(0)
    for n in range(8):
        box = choose.randrange(1, 30), choose.randrange(1, 30), 60, 60
        objects = [voc_object(name, box) for name in CLASSES]
        write_text(root / f"{n}.xml", voc_xml(*objects, filename=f"{n}.png", size_wh=(64, 64)))
        Image.effect_noise((64, 64), 90).convert("RGB").save(root / f"{n}.png")
    return root


@pytest.fixture(scope="module")
def trained(voc, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    flags = ["--data", voc, "--val_fraction", "0.4", "--seed", "5", "--epochs", "1"]
    assert run(*flags, "--output_dir", folder) == 0
    return folder


def run(*argv):
    return main.run([*SIMPLE, *map(str, argv)])


def bare_run(*argv):
    return main.run(["--num_workers", "0", "--device", "cpu", *map(str, argv)])


@pytest.fixture
def evaluated(monkeypatch):
    """File names of the images that are evaluated."""
    names = []
    evaluate = evaluation.evaluate

    def remember(model, criterion, postprocessors, loader, *args, **kwargs):
        names.extend(row["file_name"] for row in loader.dataset.coco.imgs.values())
        return evaluate(model, criterion, postprocessors, loader, *args, **kwargs)

    monkeypatch.setattr(evaluation, "evaluate", remember)
    return names


def test_the_checkpoint_knows_the_classes(trained):
    checkpoint = read_checkpoint(trained / "checkpoint.pth")
    assert checkpoint["categories"] == {1: "cat", 2: "dog", 3: "emu"}
    assert checkpoint["category_ids"] == [1, 2, 3]
    assert len(checkpoint["model"]["class_embed.bias"]) == 3 + 1


@pytest.mark.parametrize("given", [[], ["--data"]])
def test_the_same_images_are_held_out(voc, trained, evaluated, given):
    data = [*given, voc] if given else []
    detections = trained.parent / "found.json"
    resume = ["--eval", "--resume", trained / "checkpoint.pth", "--dump_detections", detections]
    assert bare_run(*resume, *data, "--output_dir", "") == 0
    assert len(evaluated) == 3
    ids = {row["image_id"] for row in json.loads(detections.read_text())}
    assert len(ids) == 3
    resume = ["--resume", trained / "checkpoint.pth", "--epochs", "2", "--output_dir", ""]
    before = sorted(evaluated)
    evaluated.clear()
    assert bare_run(*resume, *data) == 0
    assert sorted(evaluated) == before


def test_the_short_style_describes_the_data_once(voc, trained, tmp_path, capsys):
    flags = ["--eval", "--resume", trained / "checkpoint.pth", "--output_dir", tmp_path]
    assert bare_run(*flags, "--log_style", "short") == 0
    words = " ".join(capsys.readouterr().out.split())
    described = f"Pascal VOC, {voc} (3 of 8 images: 3 as in the checkpoint)"
    assert words.count(described) == 1
    assert f"validation 3 images, 9 objects from {described}" in words
    assert bare_run(*flags, "--log_style", "full") == 0
    assert f"Validation data: {described}: 3 images" in capsys.readouterr().out


def test_the_config_of_a_continued_run_starts_a_new_one(trained, tmp_path):
    continued, again = tmp_path / "continued", tmp_path / "again"
    resume = ["--resume", trained / "checkpoint.pth", "--epochs", "2"]
    assert bare_run(*resume, "--output_dir", continued) == 0
    config = (continued / "config.txt").read_text().splitlines()
    assert "# --num_classes is not given" in config
    start = [f"@{continued / 'config.txt'}", "--resume=", "--epochs", "1"]
    assert bare_run(*start, "--output_dir", again) == 0
    assert read_checkpoint(again / "checkpoint.pth")["category_ids"] == [1, 2, 3]


@pytest.mark.parametrize("kind", ["--data", "--dataset_file voc --voc_path"])
def test_a_grown_folder_moves_no_image_from_training_to_validation(kind, voc, tmp_path, evaluated):
    root = shutil.copytree(voc, tmp_path / "data")
    where = [*kind.split(), root]
    assert run(*where, "--epochs", "1", "--output_dir", tmp_path / "out") == 0
    split = read_checkpoint(tmp_path / "out" / "checkpoint.pth")["split"]
    assert [len(split[name]) for name in ("train", "val")] == [7, 1] and split["val"] == evaluated
    for n in range(8, 22):
        write_text(root / f"{n}.xml", (root / "0.xml").read_text().replace("0.png", f"{n}.png"))
        shutil.copy(root / "0.png", root / f"{n}.png")
    evaluated.clear()
    resume = ["--resume", tmp_path / "out" / "checkpoint.pth", "--epochs", "2"]
    assert bare_run(*resume, "--seed", "7", "--output_dir", tmp_path / "out2") == 0
    assert len(evaluated) == 2
    now = read_checkpoint(tmp_path / "out2" / "checkpoint.pth")["split"]
    assert set(now["val"]) == set(evaluated) and set(split["val"]) < set(now["val"])
    assert set(split["train"]) < set(now["train"]) and len(now["train"]) == 20


@pytest.mark.parametrize("fraction", [[], ["--val_fraction", "0.4"]])
def test_fine_tuning_keeps_training_images_out_of_validation(
    voc, trained, tmp_path, capsys, fraction
):
    out, checkpoint = tmp_path / "out", trained / "checkpoint.pth"
    split = read_checkpoint(checkpoint)["split"]
    flags = ["--finetune", checkpoint, "--seed", "7", *fraction, "--epochs", "1"]
    assert run("--data", voc, *flags, "--output_dir", out) == 0
    text = capsys.readouterr().out
    assert "3 of 8 images: 3 as in the checkpoint" in text and "have names of" not in text
    assert read_checkpoint(out / "checkpoint.pth")["split"] == split


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_exported_weights_keep_training_images_out_of_validation(
    voc, trained, tmp_path, capsys, evaluated, suffix
):
    out, exported = tmp_path / "out", tmp_path / f"weights{suffix}"
    split = read_checkpoint(trained / "checkpoint.pth")["split"]
    assert weights.run([str(trained / "checkpoint.pth"), str(exported)]) == 0
    assert b".png" not in exported.read_bytes()  # the names may be confidential
    flags = ["--data", voc, "--seed", "7", "--finetune", exported, "--epochs", "1"]
    assert run(*flags, "--val_fraction", "0.3", "--output_dir", out) == 0
    text = capsys.readouterr().out
    assert "3 of 8 images: 3 as in the checkpoint" in text
    assert "Warning: --val_fraction 0.3: the 3 validation images of" in text
    assert read_checkpoint(out / "checkpoint.pth")["split"] == split
    evaluated.clear()
    flags = ["--data", voc, "--seed", "7", "--eval", "--resume", exported, "--output_dir", ""]
    assert run(*flags) == 0
    assert sorted(evaluated) == split["val"]
    evaluated.clear()
    flags = ["--data", voc, "--finetune", exported, "--epochs", "1", "--output_dir", ""]
    assert run(*flags, "--split_seed", "1") == 0
    shared = set(evaluated) & set(split["train"])
    assert f"Warning: {len(shared)} of 1 validation images have" in capsys.readouterr().out


def test_fine_tuning_refuses_a_fraction_without_effect(voc, trained, tmp_path, capsys):
    flags = ["--finetune", trained / "checkpoint.pth", "--val_fraction", "0.6"]
    status = run("--data", voc, *flags, "--output_dir", tmp_path / "out")
    words = ("--val_fraction 0.6: the 3 validation images", "are kept (--val_fraction 0.4)")
    assert_one_line(capsys, status, *words, "the data has no new images", "--split_seed N")
    root = shutil.copytree(voc, tmp_path / "animals")
    first = ["--data", root, "--val_fraction", "0.4", "--seed", "5", "--epochs", "1"]
    assert run(*first, "--output_dir", tmp_path / "first") == 0
    for n in (8, 9):
        objects = [voc_object(name, (4, 4, 60, 60)) for name in CLASSES]
        write_text(root / f"{n}.xml", voc_xml(*objects, filename=f"{n}.png", size_wh=(64, 64)))
        Image.new("RGB", (64, 64)).save(root / f"{n}.png")
    capsys.readouterr()
    flags = ["--finetune", tmp_path / "first" / "checkpoint.pth", "--val_fraction", "0.5"]
    assert run("--data", root, *flags, "--epochs", "1", "--output_dir", "") == 0
    new = "5 of 10 images: 3 as in the checkpoint, 2 of 2 new ones by --val_fraction 0.5"
    assert new in capsys.readouterr().out


@pytest.mark.parametrize("is_moved", [False, True])
def test_validation_on_training_images_of_the_initial_weights(
    is_moved, voc, trained, tmp_path, capsys
):
    root = shutil.copytree(voc, tmp_path / "data") if is_moved else voc
    seed = "--seed" if is_moved else "--split_seed"
    flags = ["--finetune", trained / "checkpoint.pth", seed, "7", "--val_fraction", "0.4"]
    assert run("--data", root, *flags, "--epochs", "1", "--output_dir", "") == 0
    warning = (
        r"Warning: \d of 3 validation images have names of training images of .*checkpoint.pth"
    )
    assert re.search(warning, capsys.readouterr().out)


def test_changed_data_of_a_continued_run_is_reported(voc, tmp_path, capsys):
    root, out = shutil.copytree(voc, tmp_path / "data"), tmp_path / "out"
    assert run("--data", root, "--epochs", "1", "--output_dir", out) == 0
    resume = ["--resume", out / "checkpoint.pth", "--output_dir", ""]
    capsys.readouterr()
    assert bare_run(*resume, "--epochs", "2") == 0
    assert "has changed" not in capsys.readouterr().out
    val = read_checkpoint(out / "checkpoint.pth")["split"]["val"][0].removesuffix(".png")
    file = root / f"{val}.xml"
    file.write_text(file.read_text().replace("cat", "dog"))
    write_text(root / "8.xml", voc_xml(voc_object("emu"), filename="8.png", size_wh=(64, 64)))
    Image.new("RGB", (64, 64)).save(root / "8.png")
    assert bare_run(*resume, "--epochs", "2") == 0
    text = capsys.readouterr().out
    start = "data has changed since the checkpoint was written:"
    assert f"training {start} 8 images instead of 7, 22 objects instead of 21\n" in text
    scores = "best.pth and --patience compare scores of both"
    assert f"validation {start} other image names, boxes or classes; {scores}\n" in text


def test_renamed_images_of_a_continued_run_are_reported(voc, tmp_path, capsys):
    root, out = shutil.copytree(voc, tmp_path / "data"), tmp_path / "out"
    assert run("--data", root, "--epochs", "1", "--output_dir", out) == 0
    (val,) = read_checkpoint(out / "checkpoint.pth")["split"]["val"]
    resume = ["--resume", out / "checkpoint.pth", "--epochs", "2", "--output_dir", ""]
    warning = f"Warning: none of the 1 validation images of {out}/checkpoint.pth, such as {val}, is"
    assert bare_run(*resume) == 0
    assert warning not in capsys.readouterr().out
    for n in range(8):
        for suffix in ("xml", "png"):
            (root / f"{n}.{suffix}").rename(root / f"cat{n}.{suffix}")
    assert bare_run(*resume) == 0
    assert warning in capsys.readouterr().out
    assert bare_run(*resume, "--eval", "--val_fraction", "1") == 0
    assert warning not in capsys.readouterr().out


def test_a_class_list_that_is_gone_is_in_the_checkpoint(voc, tmp_path, capsys):
    names = write_text(tmp_path / "names.txt", "emu\ncat\n")
    out = tmp_path / "out"
    assert run("--data", voc, "--classes", names, "--epochs", "1", "--output_dir", out) == 0
    names.unlink()
    flags = ["--eval", "--resume", out / "checkpoint.pth", "--output_dir", ""]
    capsys.readouterr()
    assert bare_run(*flags) == 0
    text = capsys.readouterr().out
    assert f"--classes {names} does not exist: using the classes in {out}/checkpoint.pth" in text
    assert "2 classes (emu, cat)" in text
    other = tmp_path / "other.txt"
    assert_one_line(capsys, bare_run(*flags, "--classes", other), f"{other} cannot be read")


def test_other_data_with_fewer_classes_has_the_ids_of_the_checkpoint(trained, tmp_path, capsys):
    write_text(tmp_path / "a.xml", voc_xml(voc_object("emu"), size_wh=(64, 64)))
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    flags = ["--eval", "--resume", trained / "checkpoint.pth", "--output_dir", ""]
    assert bare_run(*flags, "--data", tmp_path, "--val_fraction", "1") == 0
    assert re.search("^emu +1 ", capsys.readouterr().out, re.MULTILINE)


def test_a_yolo_file_with_the_same_images_twice_is_reported(tmp_path, capsys):
    write_yolo(tmp_path, {"train": ["a", "b"]})
    with (tmp_path / "data.yaml").open("a") as file:
        file.write("val: images/train\n")
    warning = "Warning: training also uses 2 of 2 validation images, such as "
    flags = ["--data", tmp_path, "--epochs", "1", "--output_dir", ""]
    assert run(*flags) == 0
    assert warning in capsys.readouterr().out
    assert run(*flags, "--eval") == 0
    assert warning not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--data", "gone"], "--data gone does not exist"),
        (["--dataset_file", "voc"], "--dataset_file voc needs --voc_path"),
        (["--dataset_file", "yolo"], "--dataset_file yolo needs --yolo_path"),
        ([], "or --coco_path, or --data"),
    ],
)
def test_mistakes_are_one_line(capsys, flags, says):
    assert_one_line(capsys, run(*flags, "--output_dir", ""), says)
