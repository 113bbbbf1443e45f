"""Start-up: processor time of ``--help``, and time from launch to the first training step.

The original imports PyTorch, torchvision, SciPy and pycocotools before it reads the command line.
The first step trains the default model (R50, random weights) on the shapes dataset; the first
launch draws the dataset, the second one reads it.
"""

import itertools
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.measures import CHILD_CPU, returned

TITLE = "Start-up"
_ROOT = Path(__file__).resolve().parents[1]
_IMPORTS = "numpy, torch, torchvision, scipy.optimize, pycocotools.coco, pycocotools.mask"
_FIRST_STEP = "Epoch: [0]"


def cases(settings: Settings) -> Iterator[Case]:
    """``--help`` of the programs, and the first step."""
    yield Case(
        "processor time of --help",
        {
            "the original's imports": _run("-c", f"import {_IMPORTS}"),
            "main.py": _run("main.py", "--help"),
            "predict.py": _run("predict.py", "--help"),
            "report": _run("-m", "report", "--help"),
        },
        rounds=3,
        measure=CHILD_CPU,
    )
    if not settings.quick:
        with tempfile.TemporaryDirectory() as folder:
            numbers = itertools.count()
            yield Case(
                "from launch to the first step",
                {
                    "new data": lambda: _first_step(Path(folder) / str(next(numbers))),
                    "existing data": lambda: _first_step(Path(folder) / "0"),
                },
                rounds=1,
                measure=returned("s"),
            )


def _run(*arguments: str) -> Callable[[], int]:
    """A function that runs Python with these arguments and returns its exit status."""

    def run() -> int:
        """Return the exit status."""
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=_ROOT, stdout=subprocess.DEVNULL).returncode

    return run


def _first_step(data: Path) -> float:
    """Seconds from launch to the first log line of a training."""
    flags = ["--dataset_file", "shapes", "--coco_path", str(data), "--output_dir", ""]
    command = [sys.executable, "-u", "main.py", *flags, "--backbone_weights", "none"]
    command += ["--log_style", "full"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=_ROOT, **pipes) as process:
        assert process.stdout is not None
        if not any(_FIRST_STEP in line for line in process.stdout):
            raise RuntimeError(f"{' '.join(command)}: no line with {_FIRST_STEP}")
        seconds = time.perf_counter() - start
        process.send_signal(signal.SIGTERM)
        process.communicate()
    return seconds
