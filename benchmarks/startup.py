"""Start-up: processor time of ``--help``, and time from launch to the first training step.

The baseline of ``--help`` imports at the top of the file what the original's main.py imports there.
The original has no embedded dataset. The first step is measured from launch to the first log line
of the default model (R50, random weights) on the shapes dataset: with a new data folder, and with
the existing one.
"""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.measures import CHILD_CPU, Measure

TITLE = "Start-up"
_ROOT = Path(__file__).resolve().parents[1]
_IMPORTS = "numpy, torch, torchvision, scipy.optimize, pycocotools.coco, pycocotools.mask"
_FIRST_STEP = "Epoch: [0]"
_QUICK_FLAGS = ["--backbone", "resnet18", "--batch_size", "1", "--scales", "64"]
_SECONDS = Measure("s", lambda launch: (0, launch()))


def cases(settings: Settings) -> Iterator[Case]:
    """``--help`` of three commands, and the first step."""
    yield Case(
        "--help",
        {
            "original": _run("-c", f"import {_IMPORTS}"),
            "main.py": _run("main.py", "--help"),
            "predict.py": _run("predict.py", "--help"),
            "report": _run("-m", "report", "--help"),
        },
        rounds=3,
        measure=CHILD_CPU,
    )
    with tempfile.TemporaryDirectory() as folder:
        flags = _QUICK_FLAGS if settings.quick else []
        launch = partial(seconds_to_first_step, Path(folder) / "shapes", flags)
        variants = {"new data folder": launch, "existing data folder": launch}
        yield Case("first step", variants, rounds=1, measure=_SECONDS)


def _run(*arguments: str) -> Callable[[], int]:
    """A function that runs Python with these arguments and returns its exit status."""

    def run() -> int:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=_ROOT, stdout=subprocess.DEVNULL).returncode

    return run


def seconds_to_first_step(data: Path, flags: list[str]) -> float:
    """Seconds from launch to the first log line of a training on the shapes dataset.

    Raises:
        RuntimeError: if the training ends before its first step.
    """
    command = [sys.executable, "-u", "main.py", "--dataset_file", "shapes"]
    command += ["--coco_path", str(data), "--backbone_weights", "none", "--log_style", "full"]
    command += ["--output_dir", "", *flags]
    started = time.perf_counter()
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=_ROOT, text=True, **pipes) as process:
        assert process.stdout is not None
        reached = any(_FIRST_STEP in line for line in process.stdout)
        seconds = time.perf_counter() - started
        process.send_signal(signal.SIGTERM)
        process.communicate()
    if not reached:
        raise RuntimeError(f"{' '.join(command)}: no line with {_FIRST_STEP}")
    return seconds
