"""Kill a small training run again and again, and compare its end with a run left alone.

    python -m benchmarks.kill_resume [--kills 50]

Each kill is a SIGKILL to the whole process group at a random moment; every fifth falls into the
writing of a checkpoint: when its temporary file appears. After each kill the newest checkpoint must
be readable. At the end weights, their averages, optimizer and log must equal those of the
uninterrupted run bit for bit. Prints a line a kill and a summary; exit status 1 on any difference.
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

ROOT = Path(__file__).resolve().parents[1]
# Two checkpoints an epoch besides its own, dropout and augmentation on.
FLAGS = shlex.split(
    "--backbone resnet18 --backbone_weights none --hidden_dim 32 --nheads 4 --enc_layers 1 "
    "--dec_layers 2 --num_queries 6 --dim_feedforward 32 --num_workers 1 --batch_size 2 "
    "--scales 64 --device cpu --lr 1e-3 --lr_drop 1000 --save_every 4 --ema_decay 0.9"
)


class Killed:
    """A run that is started again after each kill, until it is done.

    Args:
        data: a shapes directory.
        folder: of the run.
        epochs: to train.
    """

    def __init__(self, data: Path, folder: Path, epochs: int) -> None:
        self.folder = folder
        self.kills = self.kills_while_writing = 0
        self._left_over: set[Path] = set()
        self._command = [sys.executable, str(ROOT / "main.py"), *FLAGS, "--auto_resume"]
        self._command += ["--coco_path", str(data), "--output_dir", str(folder)]
        self._command += ["--epochs", str(epochs)]

    def start(self) -> subprocess.Popen:
        """Start or continue it, in a process group of its own."""
        return subprocess.Popen(
            self._command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
        )

    def run_until(self, moment: Callable[[float], bool]) -> bool:
        """Start it and kill it when ``moment``, asked with its age in seconds, says so.

        Returns:
            whether it was done before.

        Raises:
            RuntimeError: it failed by itself.
        """
        self._left_over = self._half_written()
        process = self.start()
        started = time.monotonic()
        while process.poll() is None:
            if moment(time.monotonic() - started):
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                self.kills += 1
                self.kills_while_writing += self.is_writing()
                return False
            time.sleep(0.0005)
        _, error = process.communicate()
        if process.returncode:
            raise RuntimeError(f"the run failed by itself: {error.decode()[-2000:]}")
        return True

    def is_writing(self) -> bool:
        """Whether a checkpoint is half written, and not by a run before."""
        return bool(self._half_written() - self._left_over)

    def _half_written(self) -> set[Path]:
        return set(self.folder.glob(".checkpoint.pth.*.tmp"))


def read(path: Path) -> dict[str, Any]:
    """A checkpoint, but for the flags, which name the folder."""
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    del checkpoint["args"]
    return checkpoint


def differences(found: Any, wanted: Any, where: str = "checkpoint") -> list[str]:
    """Places at which two nested values differ, in words."""
    if isinstance(wanted, dict) and isinstance(found, dict) and found.keys() == wanted.keys():
        return [d for k in wanted for d in differences(found[k], wanted[k], f"{where}.{k}")]
    if isinstance(wanted, list | tuple) and len(found) == len(wanted):
        pairs = zip(found, wanted, strict=True)
        return [d for i, pair in enumerate(pairs) for d in differences(*pair, f"{where}[{i}]")]
    if isinstance(wanted, torch.Tensor):
        return [] if torch.equal(found, wanted) else [where]
    return [] if found == wanted else [where]


def compare(folder: Path, wanted: Path) -> list[str]:
    """What differs between the newest and best checkpoints and the logs of two runs, in words."""
    found = []
    for name in ("checkpoint.pth", "best.pth"):
        found += differences(read(folder / name), read(wanted / name), name)
    logs = [(run / "log.txt").read_text() for run in (folder, wanted)]
    return found + ["log.txt"] * (logs[0] != logs[1])


def kill_and_compare(folder: Path, kills: int, epochs: int, seed: int = 0) -> list[str]:
    """Do the whole experiment; its first half is the uninterrupted run.

    Args:
        folder: empty.
        kills: how many at least, if the run does not end before.
        epochs: to train.
        seed: of the moments.

    Returns:
        what differs; nothing, if all is well.
    """
    rng = random.Random(seed)
    write_shapes(folder / "data", num_train=16, num_val=2, image_size=64)
    whole = Killed(folder / "data", folder / "whole", epochs)
    began = time.monotonic()
    assert whole.run_until(lambda age: False)
    print(f"uninterrupted: {time.monotonic() - began:.0f} s", flush=True)
    killed = Killed(folder / "data", folder / "killed", epochs)
    done = False
    while not done:
        done = killed.run_until(_moment(killed, kills, rng))
        newest = killed.folder / "checkpoint.pth"
        step = read(newest)["step"] if newest.exists() else 0  # raises where it cannot be read
        print(f"kill {killed.kills}: newest checkpoint at step {step}", flush=True)
    print(f"{killed.kills} kills, {killed.kills_while_writing} of them inside a checkpoint write")
    return compare(killed.folder, whole.folder)


def _moment(run: Killed, kills: int, rng: random.Random) -> Callable[[float], bool]:
    """When to kill next: at a random age, every fifth time in a write, never after enough kills."""
    if run.kills >= kills:
        return lambda age: False
    if run.kills % 5 == 4:
        return lambda age: age > 1 and run.is_writing()
    after = rng.uniform(3, 6) + rng.expovariate(0.5)
    return lambda age: age > after


def run(experiment: Callable[[Path, int, int], list[str]], kills: int) -> int:
    """Do an experiment in a folder of its own, from the command line, and tell how it ended.

    Args:
        experiment: called with the folder, the kills and the epochs; returns what differs.
        kills: where the command line names no other number.
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
