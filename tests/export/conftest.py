"""ONNX files that several tests read; an export takes seconds."""

import pytest

from export.onnx import run
from tests.export.small_files import NARROW_MASKS, write_checkpoint


@pytest.fixture(scope="session")
def onnx_export(tmp_path_factory):
    """A small segmentation model and its ONNX file, made by the command."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    folder = tmp_path_factory.mktemp("onnx")
    model = write_checkpoint(folder / "small.pth", NARROW_MASKS)
    argv = ["--checkpoint", str(folder / "small.pth"), "--output", str(folder / "small.onnx")]
    assert run([*argv, "--check_sizes", "70x133", "--check_batches", "1"]) == 0
    return model, folder / "small.onnx"


@pytest.fixture(scope="session")
def end_to_end_export(tmp_path_factory):
    """A small panoptic model, and its ONNX file for 8-bit images of one size."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    folder = tmp_path_factory.mktemp("end_to_end")
    model = write_checkpoint(folder / "small.pth", NARROW_MASKS, is_thing={1: True, 3: False})
    argv = ["--checkpoint", str(folder / "small.pth"), "--output", str(folder / "small.onnx")]
    argv += ["--end_to_end", "--fixed_size", "100x160", "--external_data", "--opset", "18"]
    assert run([*argv, "--check_batches", "1", "2"]) == 0
    return model, folder / "small.onnx"
