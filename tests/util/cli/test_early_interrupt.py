"""Ctrl-C while a program still imports its modules."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from util.cli.command_line import run_command
from util.cli.early_interrupt import end_at_once_on_interrupt, raise_on_interrupt

ROOT = Path(__file__).resolve().parents[3]
# What every program imports; this one presses Ctrl-C, and takes all exceptions for its own.
SLOW_PACKAGE = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
except BaseException:
    pass
"""


@pytest.fixture
def restored():
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


EXAMPLES = [f"examples/{name}.py" for name in ("attention", "detect", "panoptic")]
EXPORTERS = [
    f"export.{name}" for name in ("evaluate", "huggingface", "onnx", "program", "torchscript")
]
MODULES = ["datasets.check", "export.weights", *EXPORTERS]


@pytest.mark.parametrize("program", ["main.py", "forensics.py", *EXAMPLES, *MODULES])
def test_it_ends_the_program_in_one_line(program, tmp_path):
    for package in ("torch", "numpy", "PIL"):
        (tmp_path / f"{package}.py").write_text(SLOW_PACKAGE)
    command = ["-m", program] if program in MODULES else [ROOT / program]
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    name = f"python -m {program}" if program in MODULES else Path(program).name
    assert ended.stderr == f"{name}: interrupted while starting; nothing is written\n"
    assert (ended.returncode, ended.stdout) == (130, "")


def test_a_command_that_has_begun_is_interrupted_by_an_exception(restored, capsys):
    end_at_once_on_interrupt("tool")
    assert run_command("tool", lambda: os.kill(os.getpid(), signal.SIGINT)) == 130
    assert capsys.readouterr().err.startswith("tool: interrupted; files are")


def test_in_the_background_of_a_script_ctrl_c_stays_ignored(restored):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_at_once_on_interrupt("tool")
    raise_on_interrupt()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
