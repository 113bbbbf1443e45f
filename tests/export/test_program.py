"""Export with torch.export, from the command line to a program for any size."""

import dataclasses
import functools

import pytest
import torch

from export.check import compare, padded_batches
from export.command import run_export
from export.program import PROGRAM, load, run
from export.wrapper import ExportWrapper
from tests.export.small_files import NARROW_BOXES, NARROW_MASKS, write_checkpoint

LEARNED_MASKS = dataclasses.replace(NARROW_MASKS, position_embedding="learned")
# Heights and widths of every remainder that stages of stride 2 can leave, even and odd, and the
# smallest that is allowed.
ODD_SIZES_HW = [(96, 97), (98, 99), (101, 66), (33, 131)]


@pytest.mark.filterwarnings("ignore:The given buffer is not writable", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("architecture", "flags"),
    [
        (NARROW_BOXES, ["--raw"]),
        pytest.param(LEARNED_MASKS, [], marks=pytest.mark.slow),
    ],
)
def test_a_model_of_either_kind(tmp_path, monkeypatch, architecture, flags):
    model = write_checkpoint(tmp_path / "small.pth", architecture)
    extra, loaded = {"name": ""}, []
    # The program that the command loads for its check: to load it again takes seconds.
    load_with_extra = functools.partial(torch.export.load, extra_files=extra)
    monkeypatch.setattr(torch.export, "load", load_with_extra)
    kept = dataclasses.replace(PROGRAM, load=lambda *file: loaded.append(load(*file)) or loaded[0])
    argv = ["--checkpoint", str(tmp_path / "small.pth"), "--output", str(tmp_path / "model.pt2")]
    argv += [*flags, "--check_sizes", "70x133", "--check_batches", "1"]
    assert run_export(kept, argv) == 0
    wrapper, program = ExportWrapper(model, raw=bool(flags)).eval(), loaded[0]
    for batch in padded_batches(ODD_SIZES_HW, [1, 3]):
        assert compare(wrapper, program, *batch).largest() < 1e-5
    if architecture is LEARNED_MASKS:
        assert compare(wrapper, program, *next(padded_batches([(1600, 40)], [1]))).largest() < 1e-5
        with pytest.raises(AssertionError, match="1600"):
            program(*next(padded_batches([(1601, 40)], [1])))
    assert extra["name"] == "small"


def test_sides_of_one_cell_are_refused_before_the_work(tmp_path, capsys):
    write_checkpoint(tmp_path / "small.pth", NARROW_BOXES)
    argv = ["--checkpoint", str(tmp_path / "small.pth"), "--output", str(tmp_path / "model.pt2")]
    assert run([*argv, "--check_sizes", "20x30"]) == 2
    assert "--check_sizes 20x30: each side must have at least 33" in capsys.readouterr().err
