"""The sample client: the same detections as the model in PyTorch, alone or in a batch."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.coco import make_coco_transforms
from export.onnx import run as run_export
from models.postprocess import PostProcess
from tests.export.small_files import MASKS, write_checkpoint
from util.nested_tensor import nested_tensor_from_tensor_list

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

CLIENT = Path(__file__).resolve().parents[2] / "examples" / "onnx_client.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("client")


@pytest.fixture(scope="module")
def model(folder):
    model = write_checkpoint(folder / "small.pth", MASKS)
    argv = ["--checkpoint", str(folder / "small.pth"), "--output", str(folder / "small.onnx")]
    assert run_export([*argv, "--check_sizes", "64x96", "--check_batches", "1"]) == 0
    return model


@pytest.fixture(scope="module")
def pictures(folder):
    rng = np.random.default_rng(0)
    sizes = {"wide": (120, 250, 3), "tall": (200, 90, 3)}
    for name, shape in sizes.items():
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"{name}.png")
    return [str(folder / f"{name}.png") for name in sizes]


def test_it_detects_what_the_model_does(model, folder, pictures):
    command = [sys.executable, str(CLIENT), str(folder / "small.onnx"), *pictures]
    command += ["--threshold", "0.01", "--output", str(folder / "drawn")]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=folder, timeout=120
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    transform = make_coco_transforms("val", [96, 64], 160)
    originals = [Image.open(path) for path in pictures]
    batch = nested_tensor_from_tensor_list([transform(image, None)[0] for image in originals])
    sizes = torch.tensor([(image.height, image.width) for image in originals])
    with torch.no_grad():
        expected = PostProcess()(model(batch), sizes)
    for path, line, image in zip(pictures, found, expected, strict=True):
        assert line["image"] == path and len(line["detections"]) == 5
        order = image["scores"].argsort(descending=True)
        for detection, query in zip(line["detections"], order, strict=True):
            assert detection["score"] == pytest.approx(float(image["scores"][query]), abs=2e-3)
            assert detection["box_xyxy"] == pytest.approx(image["boxes"][query].tolist(), abs=0.5)
            names = {1: "cat", 3: "dog"}
            assert detection["name"] == names.get(detection["label"], detection["label"])
    for path, image in zip(pictures, originals, strict=True):
        drawn = Image.open(folder / "drawn" / Path(path).name)
        assert drawn.size == image.size and drawn.tobytes() != image.tobytes()


def test_it_scales_as_training_does():
    scaled = runpy.run_path(str(CLIENT))["scaled"]
    for size_wh in [(640, 480), (480, 640), (500, 375), (1000, 100), (333, 333), (2000, 1501)]:
        image = Image.new("RGB", size_wh)
        expected = make_coco_transforms("val")(image, None)[0]
        assert scaled(image, 800, 1333).size == (expected.shape[2], expected.shape[1])


def test_it_imports_nothing_of_this_project():
    lines = CLIENT.read_text(encoding="utf-8").splitlines()
    roots = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import", "from"))}
    assert roots - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "PIL"}
