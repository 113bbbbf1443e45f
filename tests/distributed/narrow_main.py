"""main.py with the narrow backbone among its choices, for tests that start processes."""

import runpy
import sys
from pathlib import Path

import tests.narrow_resnet  # noqa: F401
from tests.cheap_runs import cheap_runs

if __name__ == "__main__":
    sys.argv[0] = str(Path(__file__).resolve().parents[2] / "main.py")
    with cheap_runs():
        runpy.run_path(sys.argv[0], run_name="__main__")
