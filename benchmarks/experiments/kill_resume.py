"""Kill and resume a small training run many times, and compare it with an uninterrupted run.

    python -m benchmarks.experiments.kill_resume [--kills 50]

Each kill is a SIGKILL to the process group at a random time; every fifth kill hits a checkpoint
write, when its temporary file exists. After each kill the newest checkpoint must be readable. At
the end weights, EMA weights, optimizer and log must be bit-identical to the uninterrupted run.
Prints a line per kill and a summary; exit status 1 on any difference.
"""

import argparse
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from datasets.shapes.directory import write_shapes

ROOT = Path(__file__).resolve().parents[2]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
# Two checkpoints within each epoch, with dropout and augmentation.
FLAGS = shlex.split(
    "--backbone resnet18 --backbone_weights none --hidden_dim 32 --nheads 4 --enc_layers 1 "
    "--dec_layers 2 --num_queries 6 --dim_feedforward 32 --num_workers 1 --batch_size 2 "
    "--scales 64 --device cpu --lr 1e-3 --lr_drop 1000 --save_every 4 --ema_decay 0.9"
)


class Killed:
    """A run that is restarted after each kill until it is complete.

    Args:
        data: directory of a shapes dataset.
    """

    def __init__(self, data: Path, folder: Path, epochs: int) -> None:
        self.folder = folder
        self.kills = self.kills_while_writing = 0
        self._left_over: set[Path] = set()
        self._command = [sys.executable, *main_command(data, folder, epochs)]

    def run_until(self, should_kill: Callable[[float], bool]) -> bool:
        """Start the run and kill it as soon as ``should_kill(seconds since start)`` is true.

        Returns:
            whether the run was complete before the kill.

        Raises:
            RuntimeError: if the run failed without a kill.
        """
        self._left_over = half_written(self.folder)
        process = subprocess.Popen(
            self._command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=ONE_THREAD,
            cwd=ROOT,
        )
        started = time.monotonic()
        while process.poll() is None:
            if should_kill(time.monotonic() - started):
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                self.kills += 1
                self.kills_while_writing += self.is_writing()
                return False
            time.sleep(0.0005)
        _, error = process.communicate()
        if process.returncode:
            raise RuntimeError(f"the run failed without a kill: {error.decode()[-2000:]}")
        return True

    def is_writing(self) -> bool:
        """Whether the current process is writing a checkpoint."""
        return bool(half_written(self.folder) - self._left_over)


def main_command(data: Path, folder: Path, epochs: int) -> list[str]:
    """``main.py`` with flags that start or resume a run."""
    paths = ["--coco_path", str(data), "--output_dir", str(folder)]
    return [str(ROOT / "main.py"), *FLAGS, "--auto_resume", *paths, "--epochs", str(epochs)]


def half_written(folder: Path) -> set[Path]:
    """Temporary files of checkpoint writes."""
    return set(folder.glob(".checkpoint.pth.*.tmp"))


def newest_step(folder: Path) -> int:
    """Optimizer steps of the newest checkpoint, which must be readable; 0 without one."""
    newest = folder / "checkpoint.pth"
    return read(newest)["step"] if newest.exists() else 0


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint without its flags, which contain the output folder."""
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    del checkpoint["args"]
    return checkpoint


def differences(found: Any, expected: Any, where: str = "checkpoint") -> list[str]:
    """Paths of the entries in which two nested values differ."""
    if isinstance(expected, dict) and isinstance(found, dict) and found.keys() == expected.keys():
        return [d for k in expected for d in differences(found[k], expected[k], f"{where}.{k}")]
    if isinstance(expected, list | tuple) and len(found) == len(expected):
        pairs = zip(found, expected, strict=True)
        return [d for i, pair in enumerate(pairs) for d in differences(*pair, f"{where}[{i}]")]
    if isinstance(expected, torch.Tensor):
        return [] if torch.equal(found, expected) else [where]
    return [] if found == expected else [where]


def compare(folder: Path, expected: Path) -> list[str]:
    """Differences between the newest checkpoints, best checkpoints and logs of two runs."""
    found = []
    for name in ("checkpoint.pth", "best.pth"):
        found += differences(read(folder / name), read(expected / name), name)
    logs = [(run / "log.txt").read_text() for run in (folder, expected)]
    return found + ["log.txt"] * (logs[0] != logs[1])


def kill_and_compare(folder: Path, kills: int, epochs: int, seed: int = 0) -> list[str]:
    """Run the experiment, the uninterrupted run first.

    Args:
        folder: empty folder.
        kills: maximum number of kills; fewer if the run completes earlier.

    Returns:
        the differences; empty if both runs are identical.
    """
    rng = random.Random(seed)
    write_shapes(folder / "data", num_train=16, num_val=2, image_size=64)
    whole = Killed(folder / "data", folder / "whole", epochs)
    began = time.monotonic()
    assert whole.run_until(lambda age: False)
    print(f"uninterrupted: {time.monotonic() - began:.0f} s", flush=True)
    killed = Killed(folder / "data", folder / "killed", epochs)
    complete = False
    while not complete:
        complete = killed.run_until(_next_kill(killed, kills, rng))
        step = newest_step(killed.folder)
        print(f"kill {killed.kills}: newest checkpoint at step {step}", flush=True)
    print(f"{killed.kills} kills, {killed.kills_while_writing} of them inside a checkpoint write")
    return compare(killed.folder, whole.folder)


def _next_kill(run: Killed, kills: int, rng: random.Random) -> Callable[[float], bool]:
    """Condition of the next kill: a random time, or, for every fifth kill, a checkpoint write."""
    if run.kills >= kills:
        return lambda age: False
    if run.kills % 5 == 4:
        return lambda age: age > 1 and run.is_writing()
    kill_time = rng.uniform(3, 6) + rng.expovariate(0.5)
    return lambda age: age > kill_time


def run(experiment: Callable[[Path, int, int], list[str]], kills: int) -> int:
    """Run an experiment from the command line in a temporary folder, and return its exit status.

    Args:
        experiment: called with folder, kills and epochs; returns the differences.
        kills: default number of kills.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=kills)
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = experiment(Path(folder), args.kills, args.epochs)
    print("weights, optimizer and log are equal" if not found else f"different: {found[:5]}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(run(kill_and_compare, kills=50))
