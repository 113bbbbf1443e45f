"""The examples: models from checkpoints and by name, figures, mistakes."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples import attention, detect, loading, panoptic
from export.source import from_file, released_model
from main import get_args_parser
from models import build_model
from tests.datasets.photo_cases import PATCH_XYWH, UPRIGHT_WH, red_share, write_photo
from tests.narrow_resnet import NARROW
from util.errors import UserError
from util.options import NEW_FLAG_DEFAULTS

ROOT = Path(loading.__file__).resolve().parents[1]
SMALL = (
    f"--backbone {NARROW} --enc_layers 1 --dec_layers 2 --hidden_dim 16 --nheads 2 --num_queries 6 "
    "--dim_feedforward 16 --dropout 0 --device cpu"
)
SCRIPTS = ["detect", "attention", "panoptic"]

# Runs each script of sys.argv[1] with the other arguments, in a process forked from this one:
# the import of PyTorch takes seconds. Prints their exit statuses.
RUN_SCRIPTS = """
import os, runpy, sys, torch, torchvision
for script in sys.argv[1].split(os.pathsep):
    child = os.fork()
    if child == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    sys.exit()
sys.argv[:2], sys.path[0] = [script], os.path.dirname(script)
name = os.path.basename(script).removesuffix(".py")
for number in (1, 2):
    os.dup2(os.open(f"{name}-{number}.txt", os.O_WRONLY | os.O_CREAT), number)
runpy.run_path(script, run_name="__main__")
"""


def make_checkpoint(path, *flags, num_classes=5, **changes):
    """A checkpoint of a small model, as main.py writes it; returns its model."""
    args = get_args_parser().parse_args([*SMALL.split(), *flags])
    args.num_classes, args.backbone_weights, args.scales = num_classes, "none", [48, 64]
    torch.manual_seed(0)
    model = build_model(args)[0].eval()
    content = {"model": model.state_dict(), "args": vars(args), "categories": {1: "dot", 2: "bar"}}
    torch.save({**content, **changes}, path)
    return model


def write_noise(path):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture
def photo(tmp_path):
    return write_noise(tmp_path / "photo.png")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pth"
    make_checkpoint(path, "--masks")
    return str(path)


# ---- models --------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_checkpoint_becomes_the_model_that_it_was(tmp_path):
    model = make_checkpoint(tmp_path / "c.pth")
    loaded = from_file(str(tmp_path / "c.pth"), {})
    assert (loaded.short_side, loaded.max_size, loaded.num_classes) == (64, 1333, 5)
    assert [loaded.name_of(label) for label in (2, 3)] == ["bar", "class 3"]
    assert not loaded.model.training
    batch = loaded.batch_of(Image.new("L", (100, 50)))
    assert batch.shape == (1, 3, 64, 128)
    expected = model.state_dict()
    for name, values in loaded.model.state_dict().items():
        assert torch.equal(values, expected[name])
    # Threads may share the sums out differently from call to call.
    outputs, expected = loaded.model(batch), model(batch)
    for name, values in outputs.items():
        torch.testing.assert_close(values, expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("num_classes", "name"), [(91, "dog"), (5, "class 18")])
def test_a_checkpoint_of_the_original_has_no_new_flags_and_no_names(num_classes, name, tmp_path):
    flags = ("--masks", "--frozen_weights", "boxes.pth")
    make_checkpoint(tmp_path / "new.pth", *flags, num_classes=num_classes)
    content = torch.load(tmp_path / "new.pth", weights_only=True)
    old = {k: v for k, v in content["args"].items() if k not in NEW_FLAG_DEFAULTS}
    torch.save({"model": content["model"], "args": argparse.Namespace(**old)}, tmp_path / "old.pth")
    loaded = from_file(str(tmp_path / "old.pth"), {})
    assert (loaded.short_side, loaded.num_classes) == (800, num_classes)
    assert loaded.name_of(18) == name


def test_a_file_of_weights_alone(tmp_path):
    model = make_checkpoint(tmp_path / "c.pth", args=None, categories=None)
    loaded = from_file(str(tmp_path / "c.pth"), {"nheads": 2})
    assert loaded.name_of(1) == "class 1" and loaded.short_side == 800
    assert loaded.model.transformer.nhead == model.transformer.nhead == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"weight": torch.zeros(1)}}, "contains no DETR model"),
        ({"model": {}}, "has no weights"),
    ],
)
def test_a_file_that_is_no_checkpoint_of_a_model(changes, message, tmp_path):
    make_checkpoint(tmp_path / "c.pth", **changes)
    with pytest.raises(UserError, match=f"c.pth: {message}"):
        from_file(str(tmp_path / "c.pth"), {})


def test_random_weights_are_the_same_every_time():
    first, second = (released_model("detr_demo", True, torch.device("cpu")) for _ in range(2))
    assert torch.equal(first.model.query_pos, second.model.query_pos)
    assert first.name_of(18) == "dog"


# ---- detections ----------------------------------------------------------------------------------


def test_photos_are_read_upright(checkpoint, tmp_path, monkeypatch):
    write_photo(tmp_path / "photo.jpg", 6)
    drawn = []
    monkeypatch.setattr(detect, "draw", lambda image, _: drawn.append(image) or image)
    arguments = ["--checkpoint", checkpoint, "--output", str(tmp_path / "out.png")]
    assert detect.main([str(tmp_path / "photo.jpg"), *arguments]) == 0
    x, y, width, height = PATCH_XYWH
    assert drawn[0].size == UPRIGHT_WH
    assert red_share(drawn[0], [x, y, x + width, y + height]) > 0.95


# ---- commands ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """Folder in which each script has been run, and for each its status and what it printed."""
    folder = tmp_path_factory.mktemp("scripts")
    make_checkpoint(folder / "c.pth", "--masks", "--backbone", "resnet18")
    arguments = [write_noise(folder / "photo.png"), "--checkpoint", "c.pth", "--threshold", "0.1"]
    paths = [str(ROOT / "examples" / f"{script}.py") for script in SCRIPTS]
    command = [sys.executable, "-c", RUN_SCRIPTS, os.pathsep.join(paths), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return folder, dict(zip(SCRIPTS, done.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_from_another_folder(script, scripts):
    folder, statuses = scripts
    output, error = ((folder / f"{script}-{n}.txt").read_text() for n in (1, 2))
    assert statuses[script] == "0", error
    with Image.open(folder / f"{script}.png") as picture:
        assert picture.width >= 400
        assert f"{script}.png: {picture.width} x {picture.height} pixels" in output


def test_detections_are_drawn_with_a_model_by_name(photo, tmp_path, capsys):
    output = str(tmp_path / "out.jpg")
    arguments = ["--random_weights", "--threshold", "0", "--output", output]
    assert detect.main([photo, *arguments]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 101
    with Image.open(output) as picture:
        assert picture.format == "JPEG"


def test_the_chosen_queries_are_shown(photo, checkpoint, tmp_path, capsys):
    arguments = [photo, "--checkpoint", checkpoint, "--output", str(tmp_path / "out.png")]
    heights = []
    for queries in (["4"], ["4", "0", "2"]):
        assert attention.main([*arguments, "--queries", *queries]) == 0
        lines = capsys.readouterr().out.splitlines()[:-1]
        assert [line.split()[1] for line in lines] == [f"{query}:" for query in queries]
        with Image.open(tmp_path / "out.png") as picture:
            heights.append(picture.height)
    assert heights[1] == pytest.approx(3 * heights[0], rel=0.05)


@pytest.mark.parametrize("stuff_from", ["flag", "checkpoint"])
def test_segments_cover_the_image(photo, tmp_path, capsys, stuff_from):
    by_checkpoint = {"is_thing": dict.fromkeys(range(5), False)}
    path = tmp_path / "c.pth"
    # With these random weights some queries predict an object.
    flags = ("--masks", "--backbone", "resnet18")
    make_checkpoint(path, *flags, **(by_checkpoint if stuff_from == "checkpoint" else {}))
    flags = ["--stuff", "0", "1", "2", "3", "4"] if stuff_from == "flag" else []
    arguments = [photo, "--checkpoint", str(path), "--output", str(tmp_path / "out.png")]
    assert panoptic.main([*arguments, "--threshold", "0", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()[:-1]
    shares = [float(line.split("%")[0]) for line in lines]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(100, abs=0.5)
    names = [line.split("%  ")[1].rsplit(" ", 1)[0] for line in lines]
    assert len(set(names)) == len(names)  # stuff of one class is one segment


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        (detect, ["--checkpoint", "none.pth"], "none.pth: cannot be read"),
        (detect, ["--checkpoint", "C", "--random_weights"], "--random_weights requires --model"),
        (detect, ["--checkpoint", "C", "--output", "no/folder/out.png"], "--output no/folder"),
        (detect, ["--checkpoint", "C", "--output", "out.xyz"], "'.xyz' is not an image format"),
        (detect, ["--checkpoint", "C", "--device", "nowhere"], "--device nowhere"),
        (detect, ["--random_weights", "--ema"], "--ema require --checkpoint"),
        (detect, ["--checkpoint", "C", "--ema"], "contains no EMA weights"),
        (attention, ["--checkpoint", "C", "--queries", "6"], "the model has queries 0 to 5"),
        (panoptic, ["--checkpoint", "BOXES"], "was trained without --masks"),
    ],
)
def test_a_mistake_is_one_line(script, flags, message, photo, checkpoint, tmp_path, capsys):
    files = {"C": checkpoint, "BOXES": str(tmp_path / "boxes.pth")}
    if "BOXES" in flags:
        make_checkpoint(files["BOXES"])
    flags = [files.get(flag, flag) for flag in flags]
    output = [] if "--output" in flags else ["--output", str(tmp_path / "out.png")]
    assert script.main([photo, *flags, *output]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out.png").exists()


def test_an_image_that_is_not_there(checkpoint, tmp_path, capsys):
    assert detect.main([str(tmp_path / "no.jpg"), "--checkpoint", checkpoint]) == 2
    assert "no.jpg does not exist" in capsys.readouterr().err


def test_a_folder_in_place_of_an_image(photo, checkpoint, capsys):
    folder = Path(photo).parent
    assert detect.main([str(folder), "--checkpoint", checkpoint]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{folder} is a folder; give an image file in it" in line


def test_detections_of_a_checkpoint_have_its_threshold(photo, tmp_path, capsys):
    make_checkpoint(path := tmp_path / "c.pth", thresholds={"best_f1": 0.01})
    argv = [photo, "--checkpoint", str(path), "--output", str(tmp_path / "o.png")]
    assert detect.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("0.") for line in lines) == 6  # all scores are below 0.7


@pytest.mark.parametrize("script", [detect, attention, panoptic])
@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        ("30", "30 is not between 0 and 1; for 30 % use 0.3"),
        ("-1", "-1 is not"),
        ("nan", "nan is"),
    ],
)
def test_a_threshold_is_a_fraction(script, threshold, message, capsys):
    with pytest.raises(SystemExit) as ended:
        script.main(["a.jpg", "--threshold", threshold])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_model_without_encoder_has_no_maps(photo, tmp_path, capsys):
    make_checkpoint(tmp_path / "c.pth", "--enc_layers", "0")
    arguments = ["--checkpoint", str(tmp_path / "c.pth"), "--output", str(tmp_path / "out.png")]
    assert attention.main([photo, *arguments]) == 2
    assert "no encoder layer" in capsys.readouterr().err
