"""Two runs never write to the same output folder."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.processes import run_connected
from tests.programs import ForkedProgram
from tests.test_main import ROOT, assert_one_line, run
from util.errors import UserError
from util.files import folder_lock
from util.files.folder_lock import locked

# Holds a lock, forks a child like a DataLoader worker, and waits to be killed.
HOLDER = """
import os, sys, time
from pathlib import Path
from util.files.folder_lock import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    print("locked", flush=True)
    time.sleep(30)
"""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(folder_lock, "_SECONDS", 0.3)


def test_a_folder_is_locked_until_the_end_of_the_run(tmp_path):
    folder = tmp_path / "new" / "run"
    for _ in range(2):
        with locked(folder):
            assert [path.name for path in folder.iterdir()] == [".lock"]
            mine = f"process {os.getpid()} on "
            with pytest.raises(UserError, match=rf"new/run: another run is writing .*{mine}"):
                locked(folder).__enter__()
        assert not folder.parent.exists()


def test_a_killed_run_leaves_no_lock(tmp_path):
    """Although its data workers live on."""
    holder = ForkedProgram(
        [sys.executable, "-c", HOLDER, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"process {holder.pid} on"):
            locked(tmp_path).__enter__()
        holder.kill()
        holder.wait()
        with locked(tmp_path):
            pass
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()


def test_a_lock_of_another_machine_is_reported(tmp_path, capsys):
    """It may be left by a machine that crashed."""
    with locked(tmp_path):
        (tmp_path / ".lock").write_text("process 7 on elsewhere")
        with locked(tmp_path):
            pass
        assert "another run may be writing to it (process 7 on elsewhere)" in (
            capsys.readouterr().out
        )
        assert (tmp_path / ".lock").exists()


@pytest.mark.parametrize("error", [OSError("no locks here"), ImportError("no fcntl")])
def test_where_nothing_can_be_locked_runs_go_on(tmp_path, monkeypatch, error):
    import fcntl

    def refuse(*_):
        raise error

    monkeypatch.setattr(fcntl, "flock", refuse)
    before = os.listdir("/proc/self/fd")
    with locked(tmp_path), locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == len(before), "open files"


@pytest.mark.parametrize(
    ("module", "name", "error"), [(os, "open", OSError), (fcntl, "flock", PermissionError)]
)
def test_a_lock_that_cannot_be_taken_is_not_removed(tmp_path, monkeypatch, module, name, error):
    """It may be the lock of another run."""

    def refuse(*_):
        raise error("refused")

    with locked(tmp_path):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, refuse)
            with locked(tmp_path):
                pass
        assert (tmp_path / ".lock").exists()


def test_a_run_that_does_not_start_leaves_no_folder(tmp_path, capsys):
    folder = tmp_path / "new" / "run"
    assert_one_line(capsys, run("/nowhere", "--output_dir", folder), "/nowhere")
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_stops_at_once(tmp_path, capsys):
    with locked(tmp_path):
        status = run("/nowhere", "--output_dir", tmp_path)
        assert_one_line(capsys, status, "another run is writing to it", "a different folder")
        status = run("/nowhere", "--output_dir", tmp_path, "--skip_checks")
        assert_one_line(capsys, status, "/nowhere")


def test_files_of_a_run_that_has_not_ended_are_not_of_an_earlier_run(tmp_path, capsys):
    """The message for earlier runs would suggest --overwrite."""
    with locked(tmp_path):
        (tmp_path / "log.txt").write_text("{}\n")
        status = run("/nowhere", "--output_dir", tmp_path)
        assert_one_line(capsys, status, "another run is writing to it")
    assert_one_line(capsys, run("/nowhere", "--output_dir", tmp_path), "contains an earlier run")


def lock_on_all_ranks(folder: str) -> list[str]:
    folder_lock._SECONDS = 0.3
    messages = []
    with locked(Path(folder)):
        try:
            locked(Path(folder)).__enter__()
        except UserError as error:
            messages.append(str(error))
    return messages


@pytest.mark.distributed
def test_all_ranks_are_told(tmp_path):
    folder = tmp_path / "out"
    (ranks,) = run_connected(lock_on_all_ranks, tmp_path / "run", 2, folder=str(folder))
    assert [len(messages) for messages in ranks] == [1, 1]
    assert all("another run is writing" in messages[0] for messages in ranks)
    assert not folder.exists()
