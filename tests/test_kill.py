"""SIGKILL at random moments, some inside a checkpoint write: nothing is lost, nothing changes."""

import pytest

from benchmarks.kill_resume import kill_and_compare


@pytest.mark.slow
def test_fifty_kills(tmp_path, capsys):
    assert kill_and_compare(tmp_path, kills=50, epochs=40) == []
    output = capsys.readouterr().out
    kills, inside = (int(word) for word in output.split() if word.isdigit())[-2:]
    assert kills >= 50 and inside >= 3
