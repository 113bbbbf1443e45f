"""Kill one of two distributed processes many times, and compare with an uninterrupted run.

    python -m benchmarks.experiments.kill_worker [--kills 20]

Both runs have two processes under torchrun. In the second run a random process gets a SIGKILL at
random times, every fourth time during a checkpoint write. torchrun restarts both processes from the
newest checkpoint, which must be readable after each kill. At the end weights, optimizer and log
must be bit-identical to the uninterrupted run. Prints a line per kill and a summary; exit status 1
on any difference. Needs Linux.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.experiments import kill_resume
from benchmarks.experiments.kill_resume import (
    ONE_THREAD,
    ROOT,
    compare,
    half_written,
    main_command,
    newest_step,
)
from datasets.shapes.directory import write_shapes

_SLOWEST_START = 120  # seconds until both processes run


class Together:
    """A run of two processes under torchrun.

    Args:
        data: directory of a shapes dataset.
        restarts: maximum number of restarts by torchrun.
    """

    def __init__(self, data: Path, folder: Path, epochs: int, restarts: int) -> None:
        self.folder = folder
        self._log = folder.with_suffix(".txt").open("w")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", "2", "--max-restarts", str(restarts)]
        command += ["--monitor-interval", "0.1", *main_command(data, folder, epochs)]
        self._agent = subprocess.Popen(
            command, stdout=self._log, stderr=subprocess.STDOUT, env=ONE_THREAD, cwd=ROOT
        )

    def is_running(self) -> bool:
        """Whether torchrun is running."""
        return self._agent.poll() is None

    def processes(self) -> list[int]:
        """Ids of the running processes that torchrun has started."""
        pid = self._agent.pid
        try:
            return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
        except FileNotFoundError:
            return []

    def end(self) -> None:
        """Wait for the end of the run.

        Raises:
            RuntimeError: if the run failed.
        """
        status = self._agent.wait()
        self._log.close()
        if status:
            text = self.folder.with_suffix(".txt").read_text()
            raise RuntimeError(f"the run failed: {text[-3000:]}")


def kill_one(run: Together, before: list[int], inside_a_write: bool, rng: random.Random) -> bool:
    """Wait for two new processes, and kill one of them.

    Args:
        before: ids of earlier processes.
        inside_a_write: kill during the next checkpoint write instead of at a random time.
        rng: random generator for time and process.

    Returns:
        whether a process was killed; False if the run ended before.
    """
    deadline = time.monotonic() + _SLOWEST_START
    while len(new := [pid for pid in run.processes() if pid not in before]) < 2:
        if not run.is_running() or time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    left_over = half_written(run.folder)
    kill_time = time.monotonic() + rng.uniform(3, 6) + rng.expovariate(0.5)
    while not (
        half_written(run.folder) - left_over if inside_a_write else time.monotonic() > kill_time
    ):
        if not run.is_running():
            return False
        time.sleep(0.0005)
    try:
        os.kill(rng.choice(new), signal.SIGKILL)
    except ProcessLookupError:  # the process has just ended
        return False
    return True


def kill_and_compare(folder: Path, kills: int, epochs: int, seed: int = 0) -> list[str]:
    """Run the experiment, see `benchmarks.experiments.kill_resume.kill_and_compare`."""
    rng = random.Random(seed)
    write_shapes(folder / "data", num_train=16, num_val=3, image_size=64)
    whole = Together(folder / "data", folder / "whole", epochs, restarts=0)
    whole.end()
    killed = Together(folder / "data", folder / "killed", epochs, restarts=kills)
    done = 0
    earlier: list[int] = []
    while done < kills and kill_one(killed, earlier, done % 4 == 3, rng):
        earlier = killed.processes() + earlier
        done += 1
        print(f"kill {done}: newest checkpoint at step {newest_step(killed.folder)}", flush=True)
    killed.end()
    print(f"{done} kills of one of two processes")
    return compare(killed.folder, whole.folder)


if __name__ == "__main__":
    sys.exit(kill_resume.run(kill_and_compare, kills=20))
