"""Alternating rounds, ratios, differences and tables of the benchmarks."""

import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import __main__ as benchmark
from benchmarks.__main__ import main
from benchmarks.harness import run
from benchmarks.harness.case import Case, Settings, gradient_difference, largest_difference
from benchmarks.harness.measures import CHILD_MEMORY, TIME, Measure, peak_memory
from benchmarks.harness.report import as_json, table_line
from benchmarks.harness.run import measure, private_cache


def readings(calls, **numbers):
    """A measure that reads the given numbers, and variants that record their calls."""
    left = {name: iter(values) for name, values in numbers.items()}
    variants = {name: (lambda name=name: calls.append(name) or name) for name in numbers}

    def run(variant):
        name = variant()
        return 1.0, next(left[name])

    return Measure("ms", run, has_warm_up=True), variants


def test_variants_are_measured_in_turns_after_a_warm_up():
    calls = []
    quantity, variants = readings(calls, A=[90, 4, 2, 9], B=[90, 1, 1, 8])
    (row,) = measure(Case("x", variants, rounds=3, measure=quantity))
    assert calls == ["A", "B"] * 4
    assert (row.baseline_values, row.values) == ([4, 2, 9], [1, 1, 8])
    assert row.ratio == 2  # of 4, 2 and 1.125
    assert row.ratio_range == (1.5625, 3)
    assert table_line(row) == (
        f"| x | {torch.get_num_threads()} | B | 4 ms | 1 ms | **2.00** (1.56 to 3.00) | 0.0e+00 |"
    )
    assert as_json(row, "subject")["ratio"] == 2


def test_without_a_warm_up_the_first_call_counts():
    quantity, variants = readings([], A=[4], B=[2])
    quantity = quantity._replace(has_warm_up=False)
    (row,) = measure(Case("x", variants, rounds=1, measure=quantity))
    assert (row.ratio, row.ratio_range) == (2, (2, 2))


def test_ratios_of_zeros():
    quantity, variants = readings([], A=[9, 0, 3], B=[9, 0, 0])
    (row,) = measure(Case("x", variants, rounds=2, measure=quantity))
    assert row.ratio == math.inf


def test_different_results_are_reported():
    variants = {"A": lambda: torch.tensor([3.0]), "B": lambda: torch.tensor([3.3])}
    (row,) = measure(Case("x", variants, rounds=1, tolerance={"B": 0.05}))
    assert not row.is_equal
    assert table_line(row).endswith("1.0e-01 **above 0.05** |")
    assert measure(Case("x", variants, rounds=1, tolerance=0.2))[0].is_equal


def test_threads_apply_to_the_case_only():
    before = torch.get_num_threads()
    variants = {"A": torch.get_num_threads, "B": torch.get_num_threads}
    (row,) = measure(Case("x", variants, rounds=1, threads=before + 1))
    assert row.threads == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("expected", "found", "difference"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]), 0.25),
        ({"a": [0.5]}, {"a": [0.25]}, 0.25),
        (torch.tensor([True, False]), np.array([True, True]), 1),
        (torch.tensor([math.nan]), torch.tensor([math.nan]), 0),
        (torch.tensor([1.0]), torch.tensor([math.nan]), math.inf),
        (torch.tensor([math.inf]), torch.tensor([1.0]), math.inf),
        (torch.zeros(0), torch.zeros(0), 0),
        (None, None, 0),
        (None, 1.0, math.inf),
    ],
)
def test_largest_difference(expected, found, difference):
    assert largest_difference(expected, found) == difference


@pytest.mark.parametrize(
    ("expected", "found"),
    [({"a": 1}, {"b": 1}), ([1], [1, 2]), (torch.zeros(2), torch.zeros(3))],
)
def test_results_of_different_structure_are_refused(expected, found):
    with pytest.raises(ValueError, match="different"):
        largest_difference(expected, found)


def test_gradients_are_compared_by_their_norm():
    expected = [torch.tensor([3.0]), torch.tensor([0.0, 4.0])]
    found = [torch.tensor([3.0]), torch.tensor([0.5, 4.0])]
    assert gradient_difference(expected, found) == 0.1


def two_mebibytes():
    return torch.ones(2**19).sum()  # float32


def test_peak_memory_counts_freed_tensors():
    assert peak_memory("cpu").run(two_mebibytes)[1] == pytest.approx(2, abs=0.1)


def test_memory_of_a_child_grows():
    small, large = (CHILD_MEMORY.run(lambda_of(size))[1] for size in (1, 200))
    assert 150 < large - small < 250


class lambda_of:  # noqa: N801, a picklable function
    def __init__(self, mebibytes):
        self.mebibytes = mebibytes

    def __call__(self):
        return len(b"x" * (self.mebibytes * 2**20))


def test_time_is_in_milliseconds():
    assert 0 < TIME.run(two_mebibytes)[1] < 1000


def test_annotations_are_cached_in_a_temporary_folder(monkeypatch):
    monkeypatch.setenv("TORCH_HOME", "/mine")
    with private_cache():
        assert os.environ["TORCH_HOME"] != "/mine"
    assert os.environ["TORCH_HOME"] == "/mine"


def test_subjects_are_listed(capsys):
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "inference: Inference"
    assert lines[-1].endswith("(only if named)")


def test_unknown_subjects_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["inferense"])
    assert "unknown subject inferense; choose from inference" in capsys.readouterr().err


def test_only_the_baseline_returns_freed_memory(monkeypatch):
    states, state = {}, []
    monkeypatch.setattr(run, "keep_freed_memory", state.append)
    variants = {name: (lambda name=name: states.update({name: state[-1]})) for name in "ABC"}
    measure(Case("x", variants, rounds=1))
    assert states == {"A": False, "B": True, "C": True}
    assert state[-1] is False


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_left_out_where_it_is_slow(monkeypatch, capsys, fast):
    calls = []
    names = ("original", "float32", "bf16", "prepared, bfloat16")
    case = Case("c", {name: lambda name=name: calls.append(name) for name in names}, 1)
    subject = SimpleNamespace(TITLE="t", cases=lambda settings: [case])
    monkeypatch.setattr(benchmark, "has_fast_bf16", lambda device: fast)
    monkeypatch.setattr(benchmark, "_module", lambda name: subject)
    assert len(benchmark._run_subject("s", Settings(), 1)) == (3 if fast else 1)
    assert set(calls) == set(names if fast else names[:2])
    calls.clear()
    subject.NEEDS_FAST_BF16 = True
    benchmark._run_subject("s", Settings(), 1)
    assert bool(calls) == fast
    assert ("left out: no fast bf16 on this cpu" in capsys.readouterr().out) == (not fast)
    assert len(benchmark._run_subject("s", Settings(quick=True), 1)) == 3
