"""Output to pipes whose reader has ended, and to closed terminals."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from util.cli.closed_pipes import outlive_readers_of_output

ROOT = Path(__file__).resolve().parents[3]
# Waits until its output has no reader, prints more than fits a pipe, and leaves a file.
WRITER = """
import pathlib, sys
from util.cli.closed_pipes import outlive_readers_of_output
outlive_readers_of_output()
print("first é", flush=True)
sys.stdin.read()
for _ in range(20000):
    print("later line")
print("on stderr", file=sys.stderr)
pathlib.Path(sys.argv[1]).write_text("saved")
"""
COMMAND = """
import sys
from util.cli.command_line import run_command
def command():
    print("first", flush=True)
    sys.stdin.read()
    print("last line, kept in the buffer")
sys.exit(run_command("tool", command))
"""


def start(code, *words, options=(), stdout=subprocess.PIPE):
    return subprocess.Popen(
        [sys.executable, *options, "-c", code, *words],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )


def end_without_reader(process):
    """End the reader of stdout, then let the process go on; return its stderr."""
    if process.stdout is not None:
        process.stdout.close()
    process.stdin.close()
    with process.stderr:
        text = process.stderr.read()
    process.wait(timeout=30)
    return text


def test_a_program_goes_on_after_its_socket_was_closed(tmp_path):
    """As in services and in the terminals of some editors."""
    reader, stdout = socket.socketpair()
    process = start(WRITER, str(tmp_path / "file"), stdout=stdout)
    stdout.close()
    with reader, reader.makefile("rb") as lines:
        assert lines.readline() == "first é\n".encode()
    assert end_without_reader(process) == b"on stderr\n"
    assert (process.returncode, (tmp_path / "file").read_text()) == (0, "saved")


@pytest.mark.parametrize("options", [(), ("-u",)])
def test_a_program_goes_on_without_reader(options, tmp_path):
    process = start(WRITER, str(tmp_path / "file"), options=options)
    assert process.stdout.readline() == "first é\n".encode()
    assert end_without_reader(process) == b"on stderr\n"
    assert process.returncode == 0
    assert (tmp_path / "file").read_text() == "saved"


def test_a_program_goes_on_after_its_terminal_was_closed(tmp_path):
    """As what is started with ``&`` and ``disown``; it receives no signal."""
    reading_end, writing_end = os.openpty()
    process = start(WRITER, str(tmp_path / "file"), stdout=writing_end)
    os.close(writing_end)
    with open(reading_end, "rb") as terminal:
        assert terminal.readline() == "first é\r\n".encode()
    assert end_without_reader(process) == b"on stderr\n"
    assert process.returncode == 0
    assert (tmp_path / "file").read_text() == "saved"


def test_a_command_ends_quietly_without_reader():
    process = start(COMMAND)
    assert process.stdout.readline() == b"first\n"
    assert end_without_reader(process) == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_other_streams_stay(monkeypatch, tmp_path):
    with (tmp_path / "log").open("w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        monkeypatch.setattr(sys, "stderr", None)
        outlive_readers_of_output()
        assert sys.stdout is file
        with sys.stderr:  # closed, as with 2>&-
            print("lost", file=sys.stderr)
