"""Every benchmark runs with tiny settings, and its variants give the baseline's results."""

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.subjects import DEFAULT, ON_REQUEST

SLOW = ("coco_size", "onnx_speed", "cuda.speed")


@pytest.mark.parametrize(
    "subject",
    [
        pytest.param(name, marks=pytest.mark.full if name in SLOW else ())
        for name in (*DEFAULT, *ON_REQUEST)
    ],
)
def test_results_equal_the_baselines(subject, tmp_path):
    file = tmp_path / "numbers.json"
    assert main([subject, "--quick", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert rows and all(row["subject"] == subject for row in rows)
    assert all(row["median"] >= 0 and row["ratio"] > 0 for row in rows)
