"""The mean and standard deviation of a checkpoint are used wherever its model reads images."""

import argparse
import json

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.coco import build_transforms
from datasets.loading.byte_images import IMAGENET
from export import torchscript
from export.evaluate import load as load_for_evaluation
from export.huggingface.command import run as huggingface
from export.source import from_file
from export.weights import run as convert
from prediction.detector import Detector
from tests.export.small_files import NARROW_BOXES, NORMALIZATION, SIZES, write_checkpoint
from training.flags.arguments import get_args_parser
from training.flags.checks import check_flags
from training.flags.saved import resolve_flags
from training.resume import LoadedCheckpoint, Start
from util.errors import UserError
from util.files.checkpoint_file import load_checkpoint

MEAN, STD = NORMALIZATION
FLAGS = NORMALIZATION.flags()
PIXELS = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
IMAGE = Image.fromarray(PIXELS)
# (H, W, 3) -> (1, 3, H, W)
NORMALIZED = torch.from_numpy(((PIXELS / 255 - MEAN) / STD).transpose(2, 0, 1)[None]).float()
PARSER = argparse.ArgumentParser(parents=[get_args_parser()])


@pytest.fixture
def path(tmp_path):
    """A checkpoint as main.py writes it after training with `FLAGS`."""
    write_checkpoint(path := tmp_path / "m.pth", NARROW_BOXES, FLAGS)
    return str(path)


@torch.no_grad()
def best_score(model):
    """The score that the model must find in the image."""
    logits = model(NORMALIZED)["pred_logits"]
    return float(logits.softmax(-1)[..., :-1].max())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_converted_weights_and_the_detector(path, tmp_path, suffix):
    converted = str(tmp_path / f"converted{suffix}")
    assert convert([path, converted]) == 0
    detector = Detector(converted, "cpu")
    torch.testing.assert_close(detector.loaded.batch_of(IMAGE), NORMALIZED)
    found = detector.predict(IMAGE, threshold=0.0)
    assert max(found.scores) == pytest.approx(best_score(from_file(path, {}).model), abs=1e-4)


def resolved(path, flag, *words):
    """The flags of a run of main.py from a checkpoint."""
    args = PARSER.parse_args([f"--{flag}", path, *words])
    given = {flag, *(word[2:] for word in words if word.startswith("--"))}
    field = "frozen" if flag == "frozen_weights" else flag
    start = Start(**{field: LoadedCheckpoint.read(path)})
    return resolve_flags(args, start, given, {a.dest: a for a in PARSER._actions})


@pytest.mark.parametrize("flag", ["resume", "finetune", "frozen_weights"])
def test_runs_from_the_checkpoint(path, flag):
    args = resolved(path, flag, "--scales", "96", "--max_size", "160")
    for image_set in ("train", "val"):
        assert build_transforms(image_set, args).transforms[-1].normalization == (MEAN, STD)
    found = build_transforms("val", args)(IMAGE, None)[0][None]
    torch.testing.assert_close(found, NORMALIZED)


def test_a_flag_that_contradicts_the_weights(path, tmp_path, capsys):
    other = ("--image_mean", "0", "0", "0")
    for flag in ("resume", "frozen_weights"):
        with pytest.raises(UserError, match=r"--image_mean 0.0 0.0 0.0: .*with --image_mean 0.5"):
            resolved(path, flag, *other)
    assert resolved(path, "finetune", *other).image_mean == [0.0] * 3
    assert f"--image_mean: {MEAN} in {path}, now [0.0, 0.0, 0.0]" in capsys.readouterr().out
    write_checkpoint(tmp_path / "old.pth", NARROW_BOXES)  # has no such flags: ImageNet's
    with pytest.raises(UserError, match=r"was trained with --image_mean 0.485"):
        resolved(str(tmp_path / "old.pth"), "resume", *other)
    assert resolved(str(tmp_path / "old.pth"), "resume").image_mean == IMAGENET.mean


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--image_std", "1", "1", "0"], "each value of --image_std must lie between 0 and 1000"),
        (["--image_mean", "nan", "0", "0"], "each value of --image_mean must lie between -1000"),
    ],
)
def test_values_that_are_no_normalization(path, words, problem):
    with pytest.raises(UserError, match=problem):
        check_flags(PARSER.parse_args(words))
    checkpoint = load_checkpoint(path)
    name, *values = words
    args = checkpoint["args"] | {name[2:]: [float(value) for value in values]}
    torch.save({**checkpoint, "args": args}, path)
    with pytest.raises(UserError, match=f"m.pth: {problem}"):
        from_file(path, {})


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_an_end_to_end_file_normalizes_alike(path, tmp_path):
    output = tmp_path / "m.ts"
    argv = ["--checkpoint", path, "--output", str(output), "--end_to_end", *SIZES]
    assert torchscript.run(argv) == 0
    hw = torch.tensor([[96, 128]])
    found = torch.jit.load(output)(torch.from_numpy(PIXELS.transpose(2, 0, 1)[None]), hw, hw)
    expected = best_score(from_file(path, {}).model)
    assert float(found["scores"][0, 0]) == pytest.approx(expected, abs=1e-4)


def test_the_evaluation_of_an_onnx_file(onnx_export):
    model, path = onnx_export
    loaded = load_for_evaluation(path, "onnxruntime", 1)
    images, padding_mask = loaded.preparation.batch_of(IMAGE)
    torch.testing.assert_close(images, NORMALIZED)
    outputs = loaded.run({"images": images.numpy(), "padding_mask": padding_mask.numpy()})
    assert outputs["scores"].max() == pytest.approx(best_score(model), abs=1e-4)


def test_a_folder_of_hugging_face_and_back(path, tmp_path):
    folder, back = tmp_path / "theirs", tmp_path / "back.pth"
    assert huggingface(["to", "--checkpoint", path, "--output", str(folder), *SIZES]) == 0
    config = json.loads((folder / "preprocessor_config.json").read_text())
    assert (config["image_mean"], config["image_std"]) == (MEAN, STD)
    assert huggingface(["from", str(folder), "--output", str(back), *SIZES]) == 0
    torch.testing.assert_close(from_file(str(back), {}).batch_of(IMAGE), NORMALIZED)
    assert resolved(str(back), "finetune").image_std == STD
