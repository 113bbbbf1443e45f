"""ONNX files that several tests read; an export takes seconds."""

import filelock
import pytest
import torch

from export.onnx import run
from tests.export.small_files import NARROW_MASKS, NORMALIZATION, write_checkpoint


@pytest.fixture(scope="session")
def onnx_export(tmp_path_factory, worker_id):
    """A small segmentation model for images with `NORMALIZATION`, and its ONNX file.

    Once for all processes of pytest-xdist, whose temporary folders have one parent.
    """
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    temporary = tmp_path_factory.getbasetemp()
    folder = (temporary.parent if worker_id != "master" else temporary) / "onnx"
    with filelock.FileLock(f"{folder}.lock"):
        if not (folder / "model.pt").exists():
            folder.mkdir(exist_ok=True)
            model = write_checkpoint(folder / "small.pth", NARROW_MASKS, NORMALIZATION.flags())
            argv = ["--checkpoint", str(folder / "small.pth")]
            argv += ["--output", str(folder / "small.onnx")]
            assert run([*argv, "--check_sizes", "70x133", "--check_batches", "1"]) == 0
            torch.save(model, folder / "model.pt")
    return torch.load(folder / "model.pt", weights_only=False), folder / "small.onnx"


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
