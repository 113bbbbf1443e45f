"""Start-up: processor seconds of ``--help``, and seconds to the first step on the shapes dataset.

    python -m benchmarks.startup

The baseline of ``--help`` imports at the top of the file what the original's main.py imports there.
The time to the first step is measured from launch to the first log line of the default model (R50,
random weights), once with a new data folder and once with the existing one.
"""

import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.timing import benchmark_parser

ROOT = Path(__file__).resolve().parents[1]
_IMPORTS = "numpy, torch, torchvision, scipy.optimize, pycocotools.coco, pycocotools.mask"
HELP_COMMANDS = {
    "original's imports": ("-c", f"import {_IMPORTS}"),
    "main.py": ("main.py", "--help"),
    "predict.py": ("predict.py", "--help"),
    "report": ("-m", "report", "--help"),
}
_FIRST_STEP = "Epoch: [0]"


def main() -> None:
    """Run the benchmark and print the results."""
    rounds = benchmark_parser(__doc__, rounds=5).parse_args().rounds
    print(f"{os.cpu_count()} cores, {rounds} rounds; processor seconds:")
    for name, seconds in help_seconds(rounds).items():
        print(f"  {name:20} {seconds:.2f}")
    with tempfile.TemporaryDirectory() as folder:
        print(f"first step, new data: {seconds_to_first_step(Path(folder)):.1f} s after launch")
        again = [seconds_to_first_step(Path(folder)) for _ in range(min(rounds, 3))]
        print(f"first step, existing data: {statistics.median(again):.1f} s after launch")


def help_seconds(rounds: int) -> dict[str, float]:
    """Median processor seconds of `HELP_COMMANDS`, measured in alternating rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in HELP_COMMANDS}
    for _ in range(rounds):
        for name, command in HELP_COMMANDS.items():
            seconds[name].append(processor_seconds(command))
    return {name: statistics.median(values) for name, values in seconds.items()}


def processor_seconds(command: Sequence[str]) -> float:
    """User and system seconds of a Python command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=60
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seconds_to_first_step(folder: Path) -> float:
    """Seconds from launch to the first log line of a training on the shapes in ``folder/shapes``.

    Raises:
        RuntimeError: if the training ends before its first step.
    """
    flags = ["--dataset_file", "shapes", "--coco_path", str(folder / "shapes")]
    flags += ["--backbone_weights", "none", "--log_style", "full", "--output_dir", ""]
    command = [sys.executable, "-u", "main.py", *flags]
    started = time.perf_counter()
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout is not None
        reached = any(_FIRST_STEP in line for line in process.stdout)
        seconds = time.perf_counter() - started
        process.send_signal(signal.SIGTERM)
        process.communicate()
    if not reached:
        raise RuntimeError(f"{' '.join(command)}: no line with {_FIRST_STEP}")
    return seconds


if __name__ == "__main__":
    main()
