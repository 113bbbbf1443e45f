"""Stands for Slurm in tests: sbatch, srun and scontrol of a cluster with one machine and one job.

Installed under these names by `install`. A folder, FAKE_SLURM, holds the state: ``tasks`` (process
ids, one a line, while they run), ``requeue`` (asked for) and ``done`` (exit status of the job).
"""

import os
import re
import subprocess
import sys
from pathlib import Path

JOB_ID = "4242"


def install(folder: Path) -> dict[str, str]:
    """Make the commands, and return the environment that finds them."""
    for name in ("sbatch", "srun", "scontrol"):
        command = folder / name
        command.write_text(f"#!{sys.executable}\n{Path(__file__).read_text(encoding='utf-8')}")
        command.chmod(0o755)
    return {"FAKE_SLURM": str(folder), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def sbatch(state: Path, script: Path) -> None:
    """Run a script in the background; once more whenever it has been put into the queue again."""
    if os.environ.get("FAKE_SLURM_JOB") is None:
        environment = os.environ | {"FAKE_SLURM_JOB": "1"}
        nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.Popen([sys.argv[0], str(script)], env=environment, **nowhere)
        print(f"Submitted batch job {JOB_ID}")
        return
    text = script.read_text()
    (state / "script").write_text(text)
    nodes, per_node = (
        int(re.search(rf"--{name}=(\d+)", text)[1]) for name in ("nodes", "ntasks-per-node")
    )
    job = {"SLURM_JOB_ID": JOB_ID, "SLURM_JOB_NODELIST": "localhost"}
    job |= {"SLURM_NTASKS": str(nodes * per_node), "FAKE_PER_NODE": str(per_node)}
    while True:
        status = subprocess.call(["bash", str(script)], env=os.environ | job)
        if not (state / "requeue").exists():
            break
        (state / "requeue").unlink()
    (state / "done").write_text(str(status))


def srun(state: Path, *words: str) -> None:
    """Start the tasks of the job with a place each; the first error is the status of all."""
    output, error = (words[words.index(f"--{name}") + 1] for name in ("output", "error"))
    command = words[words.index(sys.executable) :]
    per_node = int(os.environ["FAKE_PER_NODE"])
    tasks = []
    for rank in range(int(os.environ["SLURM_NTASKS"])):
        place = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % per_node)}
        place |= {"SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost"}
        files = [
            open(path.replace("%j", JOB_ID).replace("%t", str(rank)), "a")  # noqa: SIM115
            for path in (output, error)
        ]
        tasks.append(
            subprocess.Popen(command, env=os.environ | place, stdout=files[0], stderr=files[1])
        )
    (state / "tasks").write_text("\n".join(str(task.pid) for task in tasks))
    statuses = [task.wait() for task in tasks]
    (state / "tasks").unlink()
    sys.exit(max(map(abs, statuses)))


def scontrol(state: Path, verb: str, job: str) -> None:
    """Put the job into the queue again."""
    if (verb, job) == ("requeue", JOB_ID):
        (state / "requeue").touch()


if __name__ == "__main__":
    folder, name = Path(os.environ["FAKE_SLURM"]), Path(sys.argv[0]).name
    {"sbatch": lambda s, f: sbatch(s, Path(f)), "srun": srun, "scontrol": scontrol}[name](
        folder, *sys.argv[1:]
    )
