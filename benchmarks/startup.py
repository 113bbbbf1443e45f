"""Start-up: processor time of ``--help``, and time from launch to the first training step.

The original imports PyTorch, torchvision, SciPy and pycocotools before it reads the command line.
The first step is that of the default model with random weights on the shapes dataset, which the
first run writes to a new folder.
"""

import math
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.measures import CHILD_CPU, Measure

TITLE = "Start-up"
_ROOT = Path(__file__).resolve().parents[1]
_ORIGINAL = (
    "import numpy, torch, torchvision, scipy.optimize, PIL.Image, pycocotools.coco, "
    "pycocotools.cocoeval, torch.utils.data, torchvision.transforms"
)


def cases(settings: Settings) -> Iterator[Case]:
    """``--help``, then the first step."""
    yield Case(
        "--help",
        {
            "original": _run("-c", _ORIGINAL),
            "main.py": _run("main.py", "--help"),
            "predict.py": _run("predict.py", "--help"),
            "report": _run("-m", "report", "--help"),
        },
        rounds=3,
        measure=CHILD_CPU,
    )
    if not settings.quick:
        with tempfile.TemporaryDirectory() as name:
            yield _first_step(Path(name))


def _first_step(folder: Path) -> Case:
    """Time to the first step with and without an existing shapes dataset."""
    runs = iter(range(100))

    def with_new_data() -> float:
        return seconds_to_first_step(folder / f"shapes{next(runs)}")

    def with_existing_data() -> float:
        return seconds_to_first_step(folder / "shapes0")

    return Case(
        "shapes, first step",
        {"data to be written": with_new_data, "existing data": with_existing_data},
        rounds=3,
        tolerance=math.inf,
        measure=_RETURNED_SECONDS,
    )


def seconds_to_first_step(data: Path) -> float:
    """Seconds from the launch of a training on the shapes dataset to its first log line.

    Args:
        data: folder of the dataset, written if it does not exist.

    Raises:
        RuntimeError: if the training ends before its first step.
    """
    flags = ["--dataset_file", "shapes", "--coco_path", str(data), "--backbone_weights", "none"]
    flags += ["--log_style", "full", "--output_dir", ""]
    command = [sys.executable, "-u", "main.py", *flags]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=_ROOT, text=True, **pipes) as process:
        assert process.stdout is not None
        reached = any("Epoch: [0]" in line for line in process.stdout)
        seconds = time.perf_counter() - started
        process.send_signal(signal.SIGTERM)
        process.communicate()
    if not reached:
        raise RuntimeError(f"{' '.join(command)} ended before its first step")
    return seconds


def _returned(variant: Callable[[], float]) -> tuple[float, float]:
    seconds = variant()
    return seconds, seconds


_RETURNED_SECONDS = Measure("s", _returned)


def _run(*arguments: str) -> Callable[[], int]:
    """A function that runs Python with these arguments and returns its exit status."""

    def run() -> int:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=_ROOT, stdout=subprocess.DEVNULL).returncode

    return run
