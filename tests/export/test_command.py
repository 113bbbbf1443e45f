"""The command line of the exporters: files, messages and exit statuses."""

import argparse
import dataclasses
import json
import math
import os

import pytest
import torch

from export.command import Format, run_export, sizes_to_check
from export.wrapper import MinimalWrapper
from tests.export.small_files import BOXES, CATEGORIES, MASKS, SIZES, write_checkpoint
from tests.narrow_resnet import NARROW

WRITTEN = {}


def write(job, path, args):
    WRITTEN.update(module=job.module, example=job.example, metadata=dict(job.metadata))
    path.write_bytes(b"exported")


def load_same(path, inputs):
    assert path.read_bytes() == b"exported"  # the file is whole before it is checked
    assert inputs == WRITTEN["module"].signature().inputs
    return WRITTEN["module"]


def load_other(path, inputs):
    return lambda images, mask: WRITTEN["module"](images, torch.zeros_like(mask))


def make_format(load=load_same, packages=()):
    return Format("export-test", "Export for a test.", packages, write, load)


@pytest.fixture
def flags(tmp_path):
    write_checkpoint(tmp_path / "small.pth")
    output = tmp_path / "out"
    output.mkdir()
    return ["--checkpoint", str(tmp_path / "small.pth"), "--output", str(output / "f"), *SIZES]


def test_a_file_is_written_and_its_differences_are_shown(flags, tmp_path, capsys):
    assert run_export(make_format(), flags) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["f"]
    out = capsys.readouterr().out
    assert "96x128, batch 1: scores 0.0e+00, boxes 0.0e+00" in out
    assert "70x133, batch 3" in out and "overall: scores" in out
    assert out.endswith(f"written to {tmp_path / 'out' / 'f'}\n")


def test_a_file_gets_metadata(flags):
    assert run_export(make_format(), [*flags, "--raw"]) == 0
    metadata = WRITTEN["metadata"]
    assert metadata.pop("name") == "small"
    facts = {name: json.loads(text) for name, text in metadata.items()}
    assert facts["categories"] == {str(k): v for k, v in CATEGORIES.items()}
    assert (facts["short_side"], facts["max_size"]) == (96, 160)
    assert facts["architecture"] == BOXES.flags()
    assert len(facts["image_mean"]) == len(facts["image_std"]) == 3
    assert WRITTEN["module"].raw and not WRITTEN["module"].training


@pytest.mark.parametrize("before", [None, b"an older file"])
def test_a_check_that_fails_leaves_no_file_and_status_1(flags, tmp_path, capsys, before):
    output = tmp_path / "out" / "f"
    if before:
        output.write_bytes(before)
    assert run_export(make_format(load_other), flags) == 1
    assert list((tmp_path / "out").iterdir()) == ([output] if before else [])
    assert not before or output.read_bytes() == before
    (line,) = capsys.readouterr().err.splitlines()
    assert "check failed: differs from PyTorch at 96x128, batch 1" in line
    assert run_export(make_format(load_other), [*flags, "--tolerance", "2"]) == 0


def test_packages_that_are_not_installed(flags, capsys):
    assert run_export(make_format(packages=("torch", "no_such_package")), flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs no_such_package, not installed: pip install no_such_package" in line


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--hub", "detr_resnet50", "--output", "/no/such/folder/f"], "its folder does not exist"),
        (["--output", "f"], "either --hub NAME or --checkpoint FILE"),
        (["--output", "f", "--end_to_end", "--raw"], "--end_to_end cannot be combined with --raw"),
        (["--output", "f", "--top_k", "3"], "--top_k is only used with --end_to_end"),
        (["--output", "f", "--threshold", "0.3"], "--threshold is only used with --end_to_end"),
    ],
)
def test_mistakes_end_in_one_line_and_status_2(capsys, argv, words):
    assert run_export(make_format(), argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("export-test: error: ") and words in line


def test_sizes_that_the_format_does_not_take(flags, capsys):
    big = Format("export-test", "", (), write, load_same, smallest_side=33)
    assert run_export(big, [*flags, "--check_sizes", "64x64", "64x32"]) == 2
    line = capsys.readouterr().err
    assert "--check_sizes 64x32: each side must have at least 33 pixels" in line


@pytest.mark.parametrize(("dilation", "most"), [(False, 1600), (True, 800)])
@pytest.mark.parametrize("masks", [False, True])
def test_sizes_that_learned_positions_do_not_cover(tmp_path, capsys, dilation, most, masks):
    learned = dataclasses.replace(
        MASKS if masks else BOXES,
        backbone="resnet50" if dilation else NARROW,
        position_embedding="learned",
        dilation=dilation,
    )
    write_checkpoint(tmp_path / "f.pth", learned)
    flags = ["--checkpoint", str(tmp_path / "f.pth"), "--output", str(tmp_path / "f")]
    assert run_export(make_format(), [*flags, "--check_sizes", f"64x{most + 1}"]) == 2
    assert f"at least 1 and at most {most} pixels" in capsys.readouterr().err
    write = [*flags, "--check_sizes", f"64x{most}", "--check_batches", "1"]
    assert run_export(make_format(), write) == 0
    assert WRITTEN["module"].largest_side == most


def test_a_fixed_size_is_the_only_size_of_the_comparison(flags, capsys):
    model = flags[:4]
    assert run_export(make_format(), [*model, "--fixed_size", "64x96", "--check_batches", "1"]) == 0
    assert "64x96, batch 1: scores" in capsys.readouterr().out
    assert WRITTEN["module"].fixed_hw == (64, 96)
    assert WRITTEN["metadata"]["fixed_size"] == "[64, 96]"
    assert WRITTEN["example"][0].shape == (2, 3, 64, 96)
    assert run_export(make_format(), [*flags, "--fixed_size", "64x96"]) == 2
    assert "--check_sizes is not used with --fixed_size" in capsys.readouterr().err


def test_end_to_end(flags, capsys):
    argv = [*flags, "--end_to_end", "--top_k", "3", "--threshold", "0.2"]
    assert run_export(make_format(), argv) == 0
    assert (WRITTEN["module"].top_k, WRITTEN["module"].threshold) == (3, 0.2)
    assert "overall: scores 0.0e+00" in capsys.readouterr().out
    assert run_export(make_format(), [*flags, "--end_to_end", "--top_k", "6"]) == 2
    assert "--top_k 6: the model has 5 queries" in capsys.readouterr().err


def test_the_minimal_model(tmp_path, capsys):
    flags = ["--hub", "detr_demo", "--output", str(tmp_path / "f"), "--check_batches", "1"]
    assert run_export(make_format(), [*flags, "--check_sizes", "64x96"]) == 0
    assert isinstance(WRITTEN["module"], MinimalWrapper) and len(WRITTEN["example"]) == 1
    assert "architecture" not in WRITTEN["metadata"]
    assert run_export(make_format(), [*flags, "--end_to_end"]) == 2
    assert "--end_to_end: detr_demo takes no padding" in capsys.readouterr().err


def test_default_sizes_are_within_the_range_of_the_model(capsys):
    for largest, sizes in (
        (math.inf, [(480, 640), (800, 1066), (1333, 800)]),
        (800, [(480, 640), (800, 800)]),
    ):
        args = argparse.Namespace(check_sizes=None)
        assert sizes_to_check(args, 1, largest) == sizes


def test_a_device_is_not_replaced(flags, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert run_export(make_format(), [*flags, "--output", str(tmp_path / "pipe")]) == 2
    assert "pipe: is a device or a pipe; give the name of a file" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()


def test_places_that_cannot_be_written(flags, tmp_path, capsys):
    assert run_export(make_format(), [*flags, "--output", str(tmp_path)]) == 2

    def full(*_):
        raise OSError(28, "No space left on device")

    assert run_export(Format("export-test", "", (), full, load_same), flags) == 2
    assert list((tmp_path / "out").iterdir()) == []
    folder, space = capsys.readouterr().err.splitlines()
    assert "is a folder" in folder and "cannot be written (No space left on device)" in space


@pytest.mark.parametrize(
    "argv",
    [
        ["--hub", "detr_resnet18"],
        ["--check_sizes", "800"],
        ["--check_sizes", "0x5"],
        ["--check_batches", "0"],
        ["--nheads", "0"],
        ["--nheads", "-1"],
        ["--no_such_flag"],
    ],
)
def test_flags_that_the_parser_refuses(flags, capsys, argv):
    with pytest.raises(SystemExit) as caught:
        run_export(make_format(), [*flags, *argv])
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
