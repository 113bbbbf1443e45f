"""The scripts for a GPU, on a CPU: the counts of synchronizations, and the smoke test."""

from types import SimpleNamespace

import pytest

from benchmarks.cuda import smoke, synchronizations


def event(name, start, end):
    return SimpleNamespace(name=name, time_range=SimpleNamespace(start=start, end=end))


def test_waiting_calls_within_the_range_are_counted():
    events = [
        event("cudaDeviceSynchronize", 0, 1),  # of the profiler
        event("synchronizations", 10, 100),
        event("cudaStreamSynchronize", 20, 30),
        event("cudaMemcpyAsync", 40, 41),
        event("cudaEventSynchronize", 90, 95),
        event("cudaDeviceSynchronize", 101, 102),
    ]
    assert synchronizations.count_in(events) == 2


def test_synchronizations_per_step(monkeypatch):
    monkeypatch.setattr(synchronizations, "count", lambda work: work())
    assert synchronizations.per_step(lambda steps: 5 + 3 * steps) == 3  # 5: first and last line


def test_nothing_waits_without_a_gpu():
    assert synchronizations.count(lambda: None) == 0
    assert synchronizations.warned_lines(lambda: None) == []


@pytest.mark.parametrize("amp", smoke.PRECISIONS)
def test_smoke_test_trains(amp):
    outcome = smoke.train_briefly("x", f"{smoke.TINY} --masks --amp {amp} --device cpu", 3)
    assert outcome == smoke.Outcome("x")


def test_smoke_test_fails_without_updates(monkeypatch):
    monkeypatch.setattr(smoke, "train_one_epoch", lambda *args, scaler: {"loss": float("nan")})
    outcome = smoke.train_briefly("x", f"{smoke.TINY} --device cpu", 3)
    assert outcome.failure == "loss nan"


@pytest.mark.slow
def test_whole_smoke_test(capsys):
    assert smoke.main(["--device", "cpu"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert sum("| passed |" in row for row in rows) == 18 + 6
