"""ONNX files that several tests read; an export takes seconds."""

import filelock
import pytest
import torch

from export.onnx import run
from tests.export.small_files import NARROW_MASKS, NORMALIZATION, write_checkpoint


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id):
    """A folder of all processes of pytest-xdist: the parent of their temporary folders."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    temporary = tmp_path_factory.getbasetemp()
    return temporary.parent if worker_id != "master" else temporary


def export_once(folder, *flags, **checkpoint):
    """A small segmentation model and its ONNX file, made by the command in the first process."""
    with filelock.FileLock(f"{folder}.lock"):
        if not (saved := folder.with_suffix(".pt")).exists():
            folder.mkdir(exist_ok=True)
            model = write_checkpoint(folder / "small.pth", NARROW_MASKS, **checkpoint)
            argv = ["--checkpoint", str(folder / "small.pth")]
            argv += ["--output", str(folder / "small.onnx")]
            assert run([*argv, *flags]) == 0
            torch.save(model, saved)
    return torch.load(saved, weights_only=False), folder / "small.onnx"


@pytest.fixture(scope="session")
def onnx_export(shared):
    """A small segmentation model for images with `NORMALIZATION`, and its ONNX file."""
    few = ("--check_sizes", "70x133", "--check_batches", "1")
    return export_once(shared / "onnx", *few, flags=NORMALIZATION.flags())


@pytest.fixture(scope="session")
def end_to_end_export(shared):
    """A small panoptic model, and its ONNX file for 8-bit images of one size."""
    kind = ("--end_to_end", "--fixed_size", "100x160", "--external_data", "--opset", "18")
    is_thing = {1: True, 3: False}
    return export_once(shared / "end_to_end", *kind, "--check_batches", "1", "2", is_thing=is_thing)
