"""Names and times of the files of a run."""

import json
import math

import pytest

from util.errors import UserError
from util.run_folder import RunFolder


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


@pytest.mark.parametrize(
    ("epoch", "lr_drop", "stays"),
    [(0, 200, False), (199, 200, True), (99, 200, True), (4, 5, True)],
)
def test_checkpoints_that_stay(tmp_path, epoch, lr_drop, stays):
    RunFolder(str(tmp_path)).save_checkpoint({"epoch": epoch}, epoch, lr_drop)
    assert names(tmp_path) == ["checkpoint.pth"] + [f"checkpoint{epoch:04}.pth"] * stays


@pytest.mark.parametrize(("epoch", "stays"), [(0, True), (49, False), (50, True)])
def test_evaluations_that_stay(tmp_path, epoch, stays):
    RunFolder(str(tmp_path)).save_epoch_evaluation({}, epoch)
    assert names(tmp_path) == [f"eval/{epoch:03}.pth"] * stays + ["eval/latest.pth"]


def test_the_log_is_strict_json(tmp_path):
    folder = RunFolder(str(tmp_path / "new"))
    folder.append_log({"a": math.nan, "b": [1.5, math.inf], "c": {"d": 2}})
    folder.append_log({"a": 1})
    lines = (tmp_path / "new/log.txt").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"a": None, "b": [1.5, None], "c": {"d": 2}},
        {"a": 1},
    ]


def test_no_folder_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder("")
    folder.save_checkpoint({}, 0, 1)
    folder.append_log({})
    folder.save_epoch_evaluation({}, 0)
    folder.save_evaluation({})
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--output_dir"):
        RunFolder(str(tmp_path / "file" / "below"))
