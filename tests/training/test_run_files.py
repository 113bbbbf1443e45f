"""Names and times of the files of a run."""

import errno
import json
import math
import os

import pytest
import torch

from training.run_files import RunFolder
from util.errors import UserError


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


@pytest.mark.parametrize(
    ("epoch", "lr_drop", "is_kept"),
    [(0, 200, False), (199, 200, True), (99, 200, True), (4, 5, True)],
)
def test_checkpoints_that_are_kept(tmp_path, epoch, lr_drop, is_kept):
    RunFolder(str(tmp_path), lr_drop=lr_drop).save_checkpoint({"epoch": epoch}, epoch)
    assert names(tmp_path) == ["checkpoint.pth"] + [f"checkpoint{epoch:04}.pth"] * is_kept


@pytest.mark.parametrize(("epoch", "is_kept"), [(0, True), (49, False), (50, True)])
def test_evaluations_that_are_kept(tmp_path, epoch, is_kept):
    RunFolder(str(tmp_path)).save_epoch_evaluation({}, epoch)
    assert names(tmp_path) == [f"eval/{epoch:03}.pth"] * is_kept + ["eval/latest.pth"]


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
    folder.save_checkpoint({}, 0)
    folder.append_log({})
    folder.save_epoch_evaluation({}, 0)
    folder.save_evaluation({})
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--output_dir"):
        RunFolder(str(tmp_path / "file" / "below"))


def test_a_folder_that_cannot_be_written_to_is_reported_at_once(tmp_path, monkeypatch):
    def refuse(**options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(UserError, match=r"--output_dir .*written to \(Permission denied"):
        RunFolder(str(tmp_path))


# ---- copies of checkpoints


@pytest.mark.parametrize("links", [True, False])
def test_copies_keep_what_they_were_made_of(tmp_path, monkeypatch, links):
    if not links:

        def refuse(*paths):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    folder = RunFolder(str(tmp_path), keep_last=2)
    for step in (1, 2, 3):
        folder.save_checkpoint({"epoch": 0, "step": step}, None)
        if step == 2:
            folder.keep_as_best()
    steps = {name: torch.load(tmp_path / name)["step"] for name in names(tmp_path)}
    assert steps == {
        "best.pth": 2,
        "checkpoint-step000000002.pth": 2,
        "checkpoint-step000000003.pth": 3,
        "checkpoint.pth": 3,
    }


def test_copies_are_tried_where_the_newest_cannot_be_read(tmp_path):
    folder = RunFolder(str(tmp_path), lr_drop=2)
    for epoch in range(3):
        folder.save_checkpoint({"epoch": epoch}, epoch)
        if epoch == 0:
            folder.keep_as_best()
    (tmp_path / "checkpoint.pth").write_bytes(b"")
    path, content = folder.load_newest()
    assert path.name == "checkpoint0001.pth" and content["epoch"] == 1
    path.unlink()
    assert folder.load_newest()[0].name == "best.pth"
    (tmp_path / "best.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint can be read: .*checkpoint\.pth.*best\.pth"):
        folder.load_newest()


def test_thresholds_reach_the_checkpoint_and_its_copies(tmp_path, monkeypatch):
    folder, best = RunFolder(str(tmp_path), keep_last=2, lr_drop=1), {"best_f1": 0.3}
    content = {"epoch": 0, "step": 5, "model": torch.ones(2), "progress": {"skipped_steps": 1}}
    folder.save_checkpoint(content, 0)
    folder.add_thresholds(best, None)
    saved = [torch.load(path) for path in sorted(tmp_path.glob("checkpoint*.pth"))]
    assert len(saved) == 3 and all(entry["thresholds"] == best for entry in saved)
    monkeypatch.setattr("training.run_files.load_checkpoint", None)  # the content is given
    folder.add_thresholds(None, best, content=content)
    for path in tmp_path.glob("checkpoint*.pth"):
        found = torch.load(path)
        assert found.pop("progress") == {"skipped_steps": 1, "ema_thresholds": best}
        assert found.pop("model").equal(content["model"])
        assert found == {"epoch": 0, "step": 5, "thresholds": None}


def test_partial_files_are_removed(tmp_path):
    folder = RunFolder(str(tmp_path))
    folder.save_epoch_evaluation({}, 3)
    for name in (".checkpoint.pth.12-3.tmp", ".best.pth.tmp", "eval/.latest.pth.12-3.tmp"):
        (tmp_path / name).touch()
    folder.remove_partial_files()
    assert names(tmp_path) == ["eval/latest.pth"]


# ---- going back


def entries_of(folder):
    return [entry["epoch"] for entry in folder.read_log()]


@pytest.mark.parametrize("step", [10, 14])
def test_going_back_puts_aside_what_came_later(tmp_path, capsys, step):
    folder = RunFolder(str(tmp_path), keep_last=9)
    for epoch in range(4):
        folder.save_checkpoint({"epoch": epoch, "step": 5 * (epoch + 1)}, epoch)
        folder.append_log({"epoch": epoch})
    whole = (tmp_path / "log.txt").read_bytes()
    folder.go_back_to(epoch=2, step=step)
    assert entries_of(folder) == [0, 1]
    assert (tmp_path / "log-before-epoch0002.txt").read_bytes() == whole
    kept = [name for name in names(tmp_path) if "step" in name]
    assert kept == [
        *("abandoned-step000000015.pth", "abandoned-step000000020.pth"),
        *("checkpoint-step000000005.pth", "checkpoint-step000000010.pth"),
    ]
    assert "2 lines (damaged, or of epoch 2 and later)" in capsys.readouterr().out


def steps_in(folder):
    return {
        name: torch.load(folder / name)["step"] for name in names(folder) if name.endswith(".pth")
    }


def test_going_back_renames_later_checkpoints(tmp_path, capsys):
    folder = RunFolder(str(tmp_path), lr_drop=2)
    for epoch in range(4):
        folder.save_checkpoint({"epoch": epoch, "step": epoch + 1}, epoch)
        if epoch == 2:
            folder.keep_as_best()
    folder.go_back_to(epoch=2, step=2)
    assert steps_in(tmp_path) == {
        "abandoned-best-epoch0002.pth": 3,
        "abandoned-checkpoint-epoch0003.pth": 4,  # checkpoint0003.pth, and checkpoint.pth
        "checkpoint0001.pth": 2,
    }
    assert "best.pth was written after epoch 1, step 2: renamed to aband" in capsys.readouterr().out
    folder.save_checkpoint({"epoch": 2, "step": 30}, 2)
    folder.keep_as_best()
    folder.go_back_to(epoch=2, step=2)
    assert steps_in(tmp_path)["abandoned-best-epoch0002.pth"] == 3
    assert steps_in(tmp_path)["abandoned-best-epoch0002-2.pth"] == 30


@pytest.mark.parametrize(("step", "is_kept"), [(7, True), (6, False)])
def test_going_back_within_an_epoch(tmp_path, step, is_kept):
    folder = RunFolder(str(tmp_path))
    folder.save_checkpoint({"epoch": 0, "step": 5}, 0)
    folder.keep_as_best()
    folder.save_checkpoint({"epoch": 0, "step": 7}, None)
    folder.go_back_to(epoch=1, step=step)
    assert (tmp_path / "checkpoint.pth").exists() == is_kept
    assert (tmp_path / "best.pth").exists()


def test_going_back_twice_to_one_epoch_keeps_both_logs(tmp_path):
    folder = RunFolder(str(tmp_path))
    for _ in range(2):
        folder.append_log({"epoch": 3})
        folder.go_back_to(epoch=3, step=0)
    assert names(tmp_path) == ["log-before-epoch0003-2.txt", "log-before-epoch0003.txt", "log.txt"]


def test_checkpoints_that_cannot_be_read_are_kept(tmp_path):
    (tmp_path / "best.pth").write_bytes(b"lost")
    torch.save({"epoch": "nine"}, tmp_path / "checkpoint.pth")
    RunFolder(str(tmp_path)).go_back_to(epoch=0, step=0)
    assert names(tmp_path) == ["best.pth", "checkpoint.pth"]


def test_a_damaged_line_costs_no_other(tmp_path, capsys):
    folder = RunFolder(str(tmp_path))
    good = ['{"epoch": 0, "a":  1}\n', '{"epoch": 1}\n']  # kept as they are, spaces included
    bad = ["[" * 100_000 + "\n", "\x00\x00\n", '{"epoch": "1"}\n']
    (tmp_path / "log.txt").write_text("".join([good[0], *bad, good[1], '{"epo']))
    assert entries_of(folder) == [0, 1]
    folder.go_back_to(epoch=2, step=0)
    assert (tmp_path / "log.txt").read_text() == "".join(good)
    assert "4 lines (damaged" in capsys.readouterr().out


def test_a_half_line_alone_goes_without_a_word(tmp_path, capsys):
    folder = RunFolder(str(tmp_path))
    (tmp_path / "log.txt").write_text('{"epoch": 0}\n{"epo')
    folder.go_back_to(epoch=1, step=0)
    assert (tmp_path / "log.txt").read_text() == '{"epoch": 0}\n'
    assert names(tmp_path) == ["log.txt"] and capsys.readouterr().out == ""
