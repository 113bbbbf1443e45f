"""SIGKILL at random moments, some inside a checkpoint write: nothing is lost, nothing changes."""

import re

import pytest

from benchmarks.kill_resume import kill_and_compare


@pytest.mark.slow
def test_fifty_kills(tmp_path, capsys):
    assert kill_and_compare(tmp_path, kills=50, epochs=40) == []
    summary = re.search(r"(\d+) kills, (\d+) of them inside", capsys.readouterr().out)
    assert summary is not None
    assert int(summary[1]) >= 50 and int(summary[2]) >= 3
