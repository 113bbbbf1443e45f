"""An ONNX file that several tests look at; exporting takes its time."""

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
