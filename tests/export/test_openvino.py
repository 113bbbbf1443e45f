"""ONNX files in OpenVINO, from a folder of its own.

`make slow` installs it into ``.venv/openvino``; ``OPENVINO`` names another folder.
"""

import importlib
import os
import sys
from pathlib import Path

import pytest
import torch

from export.check import compare, padded_batches
from export.onnx import save
from export.precision import convert_to_fp16, quantize, store_as_bf16
from export.wrapper import INPUTS, ExportWrapper

FOLDER = Path(os.environ.get("OPENVINO", Path(sys.prefix) / "openvino"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="OpenVINO is not installed: make slow"),
]
BATCHES = list(padded_batches([(70, 133), (64, 96)], [1, 2]))


@pytest.fixture(scope="module")
def openvino():
    sys.path.append(str(FOLDER))
    yield importlib.import_module("openvino")
    sys.path.remove(str(FOLDER))


def in_openvino(openvino, path):
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", options)
    names = ("scores", "labels", "boxes", "pred_masks")

    def run(*values):
        outputs = compiled(dict(zip(INPUTS, (v.numpy() for v in values), strict=True)))
        return {name: torch.from_numpy(outputs[i].copy()) for i, name in enumerate(names)}

    return run


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("convert", "tolerance"),
    [
        (lambda model: model, 1e-4),
        (convert_to_fp16, 0.02),
        (store_as_bf16, 0.05),
        (lambda model: quantize(model, INPUTS, BATCHES), 0.3),
    ],
    ids=["fp32", "fp16", "bf16", "int8"],
)
def test_outputs_are_those_of_pytorch(openvino, onnx_export, tmp_path, convert, tolerance):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    model, path = onnx_export
    save(convert(onnx.load(path)), tmp_path / "f.onnx")
    wrapper, exported = ExportWrapper(model).eval(), in_openvino(openvino, tmp_path / "f.onnx")
    for batch in BATCHES:
        assert compare(wrapper, exported, *batch).largest() < tolerance
