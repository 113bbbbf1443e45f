"""Start-up: processor time of ``main.py --help``.

The original imports PyTorch, torchvision, SciPy and pycocotools before it reads the command line.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.measures import CHILD_CPU

TITLE = "Start-up"
_ROOT = Path(__file__).resolve().parents[1]
_ORIGINAL = (
    "import numpy, torch, torchvision, scipy.optimize, PIL.Image, pycocotools.coco, "
    "pycocotools.cocoeval, torch.utils.data, torchvision.transforms"
)


def cases(settings: Settings) -> Iterator[Case]:
    """``--help``."""
    yield Case(
        "main.py --help",
        {"original": _run("-c", _ORIGINAL), "this project": _run("main.py", "--help")},
        rounds=3,
        measure=CHILD_CPU,
    )


def _run(*arguments: str) -> Callable[[], int]:
    """A function that runs Python with these arguments and returns its exit status."""

    def run() -> int:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=_ROOT, stdout=subprocess.DEVNULL).returncode

    return run
