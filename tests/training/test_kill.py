"""SIGKILL at random moments, some inside a checkpoint write: nothing is lost, nothing changes."""

import re

import pytest

from benchmarks.experiments import kill_resume, kill_worker


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("kills", "epochs"),
    [pytest.param(5, 8, marks=pytest.mark.slow), pytest.param(50, 40, marks=pytest.mark.full)],
)
def test_kills(tmp_path, capsys, kills, epochs):
    assert kill_resume.kill_and_compare(tmp_path, kills, epochs) == []
    summary = re.search(r"(\d+) kills, (\d+) of them inside", capsys.readouterr().out)
    assert summary is not None
    assert int(summary[1]) >= kills and int(summary[2]) >= max(1, kills // 10)


@pytest.mark.timeout(1800)
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("kills", "epochs"),
    [pytest.param(1, 5, marks=pytest.mark.slow), pytest.param(4, 20, marks=pytest.mark.full)],
)
def test_kills_of_one_of_two_processes(tmp_path, capsys, kills, epochs):
    """The first is at a random time, the fourth inside a checkpoint write."""
    assert kill_worker.kill_and_compare(tmp_path, kills, epochs) == []
    assert f"{kills} kills of one" in capsys.readouterr().out
