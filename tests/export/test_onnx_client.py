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
from models.postprocess import PostProcess
from util.nested_tensor import nested_tensor_from_tensor_list

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

CLIENT = Path(__file__).resolve().parents[2] / "examples" / "onnx_client.py"


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    sizes = {"wide": (120, 250, 3), "tall": (200, 90, 3)}
    for name, shape in sizes.items():
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(tmp_path / f"{name}.png")
    return [str(tmp_path / f"{name}.png") for name in sizes]


def test_it_detects_what_the_model_does(onnx_export, pictures, tmp_path):
    model, path = onnx_export
    command = [sys.executable, str(CLIENT), str(path), *pictures]
    command += ["--threshold", "0.01", "--output", str(tmp_path / "drawn")]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    transform = make_coco_transforms("val", [96, 64], 160)
    originals = [Image.open(picture) for picture in pictures]
    batch = nested_tensor_from_tensor_list([transform(image, None)[0] for image in originals])
    sizes = torch.tensor([(image.height, image.width) for image in originals])
    with torch.no_grad():
        expected = PostProcess()(model(batch), sizes)
    for picture, line, image in zip(pictures, found, expected, strict=True):
        assert line["image"] == picture and len(line["detections"]) == 5
        order = image["scores"].argsort(descending=True)
        for detection, query in zip(line["detections"], order, strict=True):
            assert detection["score"] == pytest.approx(float(image["scores"][query]), abs=2e-3)
            assert detection["box_xyxy"] == pytest.approx(image["boxes"][query].tolist(), abs=0.5)
            names = {1: "cat", 3: "dog"}
            assert detection["name"] == names.get(detection["label"], detection["label"])
    for name, image in zip(("0_wide.png", "1_tall.png"), originals, strict=True):
        drawn = Image.open(tmp_path / "drawn" / name)
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
