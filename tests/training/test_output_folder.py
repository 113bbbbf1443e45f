"""Which folder a run writes to, in one process and in several."""

import argparse
import os
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.processes import run_connected
from training.output_folder import (
    build_output_folder,
    numbered_folder,
    refuse_used_folder,
    results_in,
    set_earlier_run_aside,
)
from util.distributed.processes import get_rank
from util.errors import UserError


@pytest.mark.parametrize("name", ["checkpoint.pth", "checkpoint0099.pth", "best.pth", "log.txt"])
def test_a_folder_with_results_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x\n")
    with pytest.raises(UserError, match=rf"{name}\).*--auto_resume.*--overwrite.*earlier-1"):
        refuse_used_folder(str(tmp_path))


def test_other_files_are_no_results(tmp_path: Path) -> None:
    for name in ("notes.txt", "eval.pth", "detections.png", "model.pth"):
        (tmp_path / name).write_text("x")
    (tmp_path / "log.txt").touch()
    refuse_used_folder(str(tmp_path))
    refuse_used_folder(str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_of_the_folder_is_continued_there(tmp_path: Path) -> None:
    inside, outside = tmp_path / "run" / "checkpoint.pth", tmp_path / "checkpoint.pth"
    inside.parent.mkdir()
    inside.touch()
    refuse_used_folder(str(inside.parent), str(inside))
    refuse_used_folder(os.path.relpath(inside.parent), str(inside))
    with pytest.raises(UserError, match="a different folder"):
        refuse_used_folder(str(inside.parent), str(outside))


def test_an_earlier_run_is_set_aside_as_a_whole(tmp_path: Path, capsys: Any) -> None:
    own = {"notes.txt", "model.pth"}
    written = {
        *("checkpoint.pth", "checkpoint0199.pth", "checkpoint-step000000005.pth", "best.pth"),
        *("log.txt", "log-before-epoch0002.txt", "abandoned-step000000007.pth", "bad_step.pth"),
        *("eval/latest.pth", "panoptic_eval/1.png", "panoptic.png", "detections.png", "eval.pth"),
    }
    for number in (1, 2):
        for name in written | own:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(f"{number}")
        set_earlier_run_aside(tmp_path)
        set_earlier_run_aside(tmp_path)  # nothing is left to set aside
    for number in (1, 2):
        aside = tmp_path / f"earlier-{number}"
        files = {p.relative_to(aside).as_posix() for p in aside.rglob("*") if p.is_file()}
        assert files == written
        assert (aside / "log.txt").read_text() == f"{number}"
    assert {path.name for path in tmp_path.iterdir()} == own | {"earlier-1", "earlier-2"}
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1].endswith("earlier-2")


def test_folders_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("outputs/r50-2").mkdir(parents=True)
    folders = []
    for _ in range(3):
        with numbered_folder("r50") as folder:
            Path(folder, "log.txt").touch()
        folders.append(folder)
    assert folders == ["outputs/r50-1", "outputs/r50-3", "outputs/r50-4"]
    with numbered_folder("../a b") as folder:
        assert Path(folder).parent == Path("outputs") and Path(folder).is_dir()


def test_an_empty_numbered_folder_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt), numbered_folder("coco"):
        raise KeyboardInterrupt
    assert not any(tmp_path.iterdir())
    Path("outputs").mkdir()
    with numbered_folder("coco"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


def test_a_numbered_folder_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("outputs").touch()
    with pytest.raises(UserError, match="--output_dir"), numbered_folder("coco"):
        pass


def settle(folder: Path) -> Any:
    """What each process learns, where only the first one sees the files."""
    own = folder / f"machine{get_rank()}"
    own.mkdir()
    os.chdir(own)
    if get_rank() == 0:
        Path("used").mkdir()
        Path("used/best.pth").touch()
    with pytest.raises(UserError) as refused:
        refuse_used_folder("used")
    with numbered_folder("coco") as first:
        Path(own, "outputs").mkdir(exist_ok=True)
        made = Path(first).exists()
    Path(own, "outputs").rmdir() if Path(own, "outputs").exists() else None
    Path("outputs").write_text("a file, where the first process wants a folder")
    with pytest.raises(UserError, match="cannot be created"), numbered_folder("coco"):
        pass
    return str(refused.value), first, made


@pytest.mark.distributed
def test_all_processes_do_what_the_first_finds(tmp_path: Path) -> None:
    (views,) = run_connected(settle, tmp_path / "run", 2, folder=tmp_path)
    assert views[0][:2] == views[1][:2] and views[0][1] == "outputs/coco-1"
    assert [view[2] for view in views] == [True, False]


def test_names_of_results(tmp_path: Path) -> None:
    for name in ("checkpoint.pth", "best.pth", "x.txt"):
        (tmp_path / name).touch()
    (tmp_path / "log.txt").write_text("{}\n")
    assert results_in(tmp_path) == ["log.txt", "best.pth", "checkpoint.pth"]


def test_a_run_continued_without_a_folder_is_told_where_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("before").mkdir()
    Path("before/checkpoint.pth").touch()
    flags = {"eval": False, "auto_resume": False, "overwrite": False, "skip_checks": False}
    args = argparse.Namespace(**flags, output_dir="", save_every=0, tensorboard=False)
    for resume, told in (("before/checkpoint.pth", True), ("https://x/y.pth", False), ("", False)):
        args.resume = resume
        with build_output_folder(args, "coco") as folder:
            assert folder == "outputs/coco-1"
        (line,) = capsys.readouterr().out.splitlines()
        assert (
            "not to the folder of before/checkpoint.pth (add --output_dir before" in line
        ) == told
