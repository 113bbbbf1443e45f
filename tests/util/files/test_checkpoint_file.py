"""Atomic writing, safe reading, and error messages in one line."""

import argparse
import errno
import io
import os
import pathlib
import pickle
import re
import stat
import sys
import tempfile
import threading

import pytest
import torch

from tests.util.tiny_detr import TinyDetr
from util.errors import UserError
from util.files import checkpoint_file
from util.files.checkpoint_file import (
    atomic_write,
    load_checkpoint,
    save_checkpoint,
    save_on_master,
)


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# ---- writing -------------------------------------------------------------------------------------


def test_saved_is_what_plain_torch_load_reads(tmp_path):
    path = tmp_path / "checkpoint.pth"
    save_checkpoint({"model": TinyDetr().state_dict(), "epoch": 3, "args": {"lr": 1e-4}}, path)
    read = torch.load(path, weights_only=True)
    assert (read["epoch"], read["args"]) == (3, {"lr": 1e-4})
    assert os.listdir(tmp_path) == ["checkpoint.pth"]


def test_a_failure_leaves_only_the_earlier_file(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("whole")
    for failure in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(failure), atomic_write(path, "w") as file:
            file.write("half")
            raise failure
    assert path.read_text() == "whole"
    assert os.listdir(tmp_path) == ["log.txt"]


def test_the_new_content_appears_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "eval.pth"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_the_new_content_is_on_the_disk_before_it_replaces_the_old(tmp_path, monkeypatch):
    path, synced = tmp_path / "checkpoint.pth", []
    path.write_bytes(b"old")

    def sync(descriptor):
        found = os.fstat(descriptor)
        size = "folder" if stat.S_ISDIR(found.st_mode) else found.st_size
        synced.append((size, path.read_bytes()))

    monkeypatch.setattr(os, "fsync", sync)
    with atomic_write(path) as file:
        file.write(b"newer")
    assert synced == [(5, b"old"), ("folder", b"newer")]


def test_text_is_utf_8(tmp_path):
    with atomic_write(tmp_path / "names.json", "w") as file:
        file.write("Känguru")
    assert (tmp_path / "names.json").read_bytes() == "Känguru".encode()


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        save_checkpoint({}, tmp_path / "shared.pth")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(tmp_path / "shared.pth").st_mode) == 0o640


def test_a_symbolic_link_is_kept(tmp_path):
    elsewhere = tmp_path / "big_disk"
    elsewhere.mkdir()
    link = tmp_path / "checkpoint.pth"
    link.symlink_to(elsewhere / "real.pth")
    save_checkpoint({"epoch": 1}, link)
    assert link.is_symlink()
    assert torch.load(elsewhere / "real.pth", weights_only=True) == {"epoch": 1}


def test_a_link_to_another_file_system_is_kept(tmp_path):
    elsewhere = pathlib.Path("/dev/shm")
    if not os.access(elsewhere, os.W_OK) or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    with tempfile.TemporaryDirectory(dir=elsewhere) as folder:
        (tmp_path / "link").symlink_to(folder)
        with atomic_write(tmp_path / "link" / "f", "w") as file:
            file.write("new")
        (tmp_path / "f").symlink_to(f"{folder}/f")
        with atomic_write(tmp_path / "f", "w") as file:
            file.write("newer")
        assert (pathlib.Path(folder) / "f").read_text() == "newer"
    assert (tmp_path / "f").is_symlink() and (tmp_path / "link").is_symlink()


def test_what_is_no_regular_file_is_never_replaced(tmp_path):
    pipe, folder, link = tmp_path / "pipe", tmp_path / "folder", tmp_path / "link"
    os.mkfifo(pipe)
    folder.mkdir()
    link.symlink_to(pipe)
    for path, kind in ((pipe, "a device or a pipe"), (link, "a device"), (folder, "a folder")):
        with pytest.raises(UserError, match=f"{path.name}: is {kind}") as error:
            save_checkpoint({}, path)
        assert "give the name of a file" in one_line(error)
    assert stat.S_ISFIFO(pipe.stat().st_mode) and link.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "folder", "link"}


def test_a_mounted_file_is_overwritten_where_it_is(tmp_path, monkeypatch):
    path = tmp_path / "mounted.txt"
    path.write_text("a longer old text")
    inode = path.stat().st_ino

    def refuse(*_):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "replace", refuse)
    with atomic_write(path, "w") as file:
        file.write("new")
    assert (path.read_text(), path.stat().st_ino) == ("new", inode)
    assert os.listdir(tmp_path) == ["mounted.txt"]


def test_a_failed_write_is_reported_with_the_fix(tmp_path):
    with pytest.raises(UserError, match=r"No such file or directory.*another folder") as error:
        save_checkpoint({}, tmp_path / "missing" / "checkpoint.pth")
    assert "missing/checkpoint.pth" in one_line(error)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path):
    path = tmp_path / "missing" / "a.json"
    with pytest.raises(FileNotFoundError) as caught, atomic_write(path):
        pass
    assert caught.value.filename == str(path)


def test_a_full_disk_costs_no_earlier_file(tmp_path):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(b"earlier")
    half = f".checkpoint.pth.{os.getpid()}-{threading.get_ident()}.tmp"
    (tmp_path / half).symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left on device"):
        save_checkpoint({"weights": torch.zeros(100_000)}, path)
    assert path.read_bytes() == b"earlier"
    assert os.listdir(tmp_path) == ["checkpoint.pth"]


@pytest.mark.parametrize(("is_main", "written"), [(True, True), (False, False)])
def test_only_the_main_process_writes(tmp_path, monkeypatch, is_main, written):
    monkeypatch.setattr(checkpoint_file, "is_main_process", lambda: is_main)
    save_on_master({"epoch": 1}, tmp_path / "checkpoint.pth")
    assert (tmp_path / "checkpoint.pth").exists() == written


def test_an_open_file_is_written_directly():
    buffer = io.BytesIO()
    save_on_master({"epoch": 1}, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True) == {"epoch": 1}


# ---- reading -------------------------------------------------------------------------------------


class RunsCode:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def bytes_of(content, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def test_reads_a_file_of_the_original(tmp_path):
    args = argparse.Namespace(lr=1e-4)
    torch.save({"model": {"weight": torch.ones(2)}, "args": args}, tmp_path / "original.pth")
    read = load_checkpoint(tmp_path / "original.pth")
    assert read["args"].lr == 1e-4
    assert read["model"]["weight"].device.type == "cpu"


WEIGHTS = {"model": {"weight": torch.zeros(1000)}}
DAMAGED = {
    "empty": b"",
    "text": b"this is no checkpoint",
    "json": b'{"model": 1}',
    "html": b"<!DOCTYPE html><html>404</html>",
    "foreign pickle": pickle.dumps({"model": 1}, protocol=4),
    "cut short": bytes_of(WEIGHTS)[:2000],
    "cut short, old format": bytes_of(WEIGHTS, _use_new_zipfile_serialization=False)[:2000],
    "list": bytes_of([1, 2]),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_files_that_are_no_checkpoint_are_named(tmp_path, kind):
    path = tmp_path / "broken.pth"
    path.write_bytes(DAMAGED[kind])
    with pytest.raises(UserError, match=re.escape(str(path))) as error:
        load_checkpoint(path)
    reason = "damaged or truncated" if "cut" in kind or kind == "empty" else "not "
    assert reason in one_line(error)


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"model": RunsCode(tmp_path / "was_here")}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"would run code from the file \(posix\.mkdir\)") as error:
        load_checkpoint(tmp_path / "evil.pth")
    one_line(error)
    assert not (tmp_path / "was_here").exists()


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pth: cannot be read \(No such file"):
        load_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("cause", "seen"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left"), UserError)],
)
def test_what_stops_the_writer_is_not_hidden_by_its_complaint(tmp_path, monkeypatch, cause, seen):
    save_checkpoint({"epoch": 1}, tmp_path / "checkpoint.pth")

    def torn(obj, file):
        try:
            file.write(b"half")
            raise cause
        finally:
            raise RuntimeError("unexpected pos 4 vs 0")  # as torch's zip writer does on its way out

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(seen):
        save_checkpoint({"epoch": 2}, tmp_path / "checkpoint.pth")
    assert load_checkpoint(tmp_path / "checkpoint.pth") == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pth"]
