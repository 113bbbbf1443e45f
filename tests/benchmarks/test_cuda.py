"""The scripts for a GPU, on a CPU: the counts of synchronizations, and the smoke test."""

import math
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


@pytest.mark.parametrize("num_objects", [3, 0])
def test_training_passes(num_objects):
    flags = f"{smoke.TINY} --masks --amp bf16 --device cpu"
    assert smoke.train_briefly("x", flags, num_objects) == smoke.Outcome("x")


@pytest.mark.parametrize(
    ("loss", "failure"), [(math.nan, "loss nan"), (1.0, "the weights have not changed")]
)
def test_failures_are_reported(monkeypatch, loss, failure):
    monkeypatch.setattr(smoke, "train_one_epoch", lambda *args, scaler: {"loss": loss})
    assert smoke.train_briefly("x", f"{smoke.TINY} --device cpu", 3).failure == failure


@pytest.mark.full
def test_whole_smoke_test(capsys):
    assert smoke.main(["--device", "cpu"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert sum("| passed |" in row for row in rows) == 18 + len(smoke.RUNS) + len(smoke.PRECISIONS)
