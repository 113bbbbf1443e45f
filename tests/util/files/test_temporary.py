"""SIGTERM leaves no temporary files."""

import signal
import sys
from pathlib import Path

import pytest

from tests.programs import run_forked
from util.files.temporary import removed_on_sigterm

ROOT = Path(__file__).parents[3]
WRITE = """
import os, signal, sys, tempfile
from pathlib import Path
from util.files.checkpoint_file import atomic_write
from util.files.temporary import removed_on_sigterm

folder = tempfile.mkdtemp(dir=sys.argv[1])
with removed_on_sigterm(Path(folder)), atomic_write(sys.argv[1] + "/f", "w") as file:
    with atomic_write(folder + "/g", "w"):
        file.write("half")
        if os.fork() == 0:
            os.kill(os.getpid(), signal.SIGTERM)  # a child ends alone
        os.wait()
        file.flush()
        assert len(os.listdir(sys.argv[1])) == 3, os.listdir(sys.argv[1])
        os.kill(os.getpid(), signal.SIGTERM)
"""


def test_sigterm_removes_everything_that_is_not_complete(tmp_path):
    (tmp_path / "f").write_text("whole")
    done = run_forked([sys.executable, "-c", WRITE, str(tmp_path)], cwd=ROOT, timeout=100)
    assert done.returncode == -signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_text() == "whole"


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_handlers_are_as_before(tmp_path, handler):
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with removed_on_sigterm(tmp_path):
            assert (signal.getsignal(signal.SIGTERM) is handler) == (handler is signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
