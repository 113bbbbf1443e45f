"""A forked program does what a started one does."""

import os
import subprocess
import sys

import pytest

from tests.programs import ForkedProgram, run_forked

WORK = """
import atexit, os, sys, warnings
atexit.register(print, "at exit")
print(__name__, sys.argv[1:], os.getcwd(), os.environ["PLACE"], os.getsid(0) == os.getpid())
print("error", file=sys.stderr)
print(repr(sys.stdin.read()))
"""
ENDS = {
    "": 0,
    "sys.exit(3)": 3,
    "sys.exit('words')": 1,
    "{}['key']": 1,
    "os._exit(4)": 4,
    "os.kill(os.getpid(), 15)": -15,
    "warnings.warn('a warning')": 1,
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("is_session", [False, True])
def test_output_and_exit_status(tmp_path, end, is_session):
    command = [sys.executable, "-W", "error", "-c", WORK + end, "a", "b c"]
    options = {
        "cwd": tmp_path,
        "env": {**os.environ, "PLACE": "here"},
        "start_new_session": is_session,
        "stdin": subprocess.DEVNULL,
    }
    started, forked = (
        start(command, capture_output=True, text=True, **options)
        for start in (subprocess.run, run_forked)
    )
    assert forked.returncode == started.returncode == ENDS[end]
    assert forked.stdout == started.stdout
    assert forked.stderr.splitlines()[-1] == started.stderr.splitlines()[-1]


@pytest.mark.parametrize("is_module", [False, True])
def test_files_and_modules(tmp_path, is_module):
    (tmp_path / "beside.py").write_text("")
    (tmp_path / "program.py").write_text("import sys, beside; print(__name__, sys.argv)")
    command = [sys.executable, *(["-m", "program"] if is_module else ["program.py"]), "--flag"]
    started, forked = (
        start(command, cwd=tmp_path, capture_output=True, text=True)
        for start in (subprocess.run, run_forked)
    )
    assert forked.stdout == started.stdout != "" and forked.returncode == 0


def test_timeouts_and_signals():
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(subprocess.TimeoutExpired):
        run_forked(command, timeout=0.1)
    with ForkedProgram(command) as program:
        assert program.poll() is None
        program.kill()
        assert program.wait(10) == -9
