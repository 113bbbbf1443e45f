"""Export to TorchScript, from the command line to a file that loads without this code."""

import subprocess
import sys

import pytest
import torch

from export.check import compare, padded_batches
from export.torchscript import load, run
from export.wrapper import ExportWrapper
from tests.export.small_files import NARROW_BOXES, NARROW_MASKS, SIZES, write_checkpoint

# torch.jit announces its end in every call; it is a contract of this project all the same.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


@pytest.mark.parametrize(("architecture", "flags"), [(NARROW_BOXES, ["--raw"]), (NARROW_MASKS, [])])
def test_a_model_of_either_kind(tmp_path, architecture, flags):
    model = write_checkpoint(tmp_path / "small.pth", architecture)
    output = tmp_path / "model.ts"
    argv = ["--checkpoint", str(tmp_path / "small.pth"), "--output", str(output)]
    assert run([*argv, *SIZES, *flags]) == 0
    wrapper = ExportWrapper(model, raw=bool(flags)).eval()
    batch = next(padded_batches([(61, 99)], [2]))
    assert compare(wrapper, load(output), *batch).largest() < 1e-5
    batch[1][1] = True  # an image of padding alone
    assert compare(wrapper, load(output), *batch).largest() < 1e-5
    extra = {"name": ""}
    torch.jit.load(output, _extra_files=extra)
    assert extra["name"] in ("small", b"small")


LOAD_ALONE = """
import sys, torch
model = torch.jit.load(sys.argv[1])
found = model(torch.zeros(2, 3, 50, 70), torch.zeros(2, 50, 70, dtype=torch.bool))
assert found["boxes"].shape == (2, 5, 4)
assert not {"models", "util", "export"} & set(sys.modules)
"""


def test_the_file_needs_none_of_this_code(tmp_path):
    write_checkpoint(tmp_path / "small.pth", NARROW_BOXES)
    argv = ["--checkpoint", str(tmp_path / "small.pth"), "--output", str(tmp_path / "model.ts")]
    assert run([*argv, "--check_sizes", "64x64", "--check_batches", "1"]) == 0
    command = [sys.executable, "-c", LOAD_ALONE, str(tmp_path / "model.ts")]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=120)
