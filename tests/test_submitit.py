"""run_with_submitit.py: on this machine, and under a stand-in for Slurm."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

import run_with_submitit
from tests import fake_slurm
from tests.drawn_data import drawn_data
from tests.programs import ForkedProgram
from tests.test_main import FLAGS, ROOT
from tests.training.test_resume import assert_same_runs
from util.distributed.launch import Launch, detect_launch, rendezvous_address

# Five steps an epoch of two processes with an image each.
RUN = ["--epochs", "3", "--lr_drop", "2", "--lr", "1e-3", "--batch_size", "1"]
TWO = ["--gpus_per_node", "0", "--processes_per_node", "2", "--time", "30"]

data = drawn_data(num_train=10, num_val=3)


@pytest.fixture(autouse=True)
def own_environment():
    """Submitting sets variables of the process, which later tests must not see."""
    with mock.patch.dict(os.environ):
        yield


def start(data, folder, *flags, **variables):
    command = [sys.executable, "run_with_submitit.py", "--shared_folder", str(folder), *TWO, *flags]
    return ForkedProgram(
        [*command, *FLAGS, *RUN, "--coco_path", str(data)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for(condition):
    deadline = time.monotonic() + 200
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def preempt(folder, task_pids):
    """Send the signal once an epoch is done: the folder of the job, by its number."""
    (log,) = wait_for(lambda: list(folder.glob("*/log.txt")))
    for pid in task_pids(log.parent.name):
        os.kill(pid, signal.SIGUSR1)
    return log.parent


def logs_of(folder, kind="err"):
    return "".join(path.read_text() for path in sorted(folder.glob(f"*_log.{kind}")))


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    """The folder of a local job that nobody disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    job = start(data, folder, "--local")
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 0 and " is done" in output, output
    (log,) = folder.glob("*/log.txt")
    return log.parent


@pytest.mark.distributed
@pytest.mark.slow
def test_a_local_job_of_two_processes_makes_room_and_continues(data, uninterrupted, tmp_path):
    job = start(data, tmp_path, "--local")
    children = "/proc/{0}/task/{0}/children"
    folder = preempt(
        tmp_path, lambda job_id: map(int, Path(children.format(job_id)).read_text().split())
    )
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 0, output + logs_of(folder)
    assert "stopped by SIGUSR1 in epoch 1" in logs_of(folder)
    assert "Resuming with epoch 1" in logs_of(folder, "out")
    assert_same_runs(folder, uninterrupted)


@pytest.mark.distributed
@pytest.mark.slow
def test_a_slurm_job_is_put_into_the_queue_again(data, uninterrupted, tmp_path):
    state = tmp_path / "slurm"
    state.mkdir()
    shared = tmp_path / "shared"
    job = start(data, shared, "--nodes", "1", "--partition", "gpu", **fake_slurm.install(state))
    output, _ = job.communicate(timeout=100)
    assert job.returncode == 0 and "Job 4242, log: " in output, output
    # The signal reaches the second task alone, the first learns of it in time to ask for the queue.
    folder = preempt(shared, lambda _: map(int, (state / "tasks").read_text().split()[1:]))
    wait_for((state / "done").exists)
    assert (state / "done").read_text() == "0", logs_of(folder)
    assert "tcp://localhost:" in logs_of(folder, "out")
    assert_same_runs(folder, uninterrupted)


@pytest.mark.distributed
@pytest.mark.slow
def test_a_local_job_that_fails_names_its_log(data, tmp_path):
    (data / "annotations").rename(data / "elsewhere")
    try:
        output, _ = (job := start(data, tmp_path, "--local")).communicate(timeout=200)
    finally:
        (data / "elsewhere").rename(data / "annotations")
    assert job.returncode == 2
    last = output.strip().splitlines()[-1]
    assert last.startswith("run_with_submitit.py: error: job ") and "_log.err" in last


# ---- what is asked of Slurm


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    """The script that flags submit, and what was said."""
    for name in ("srun", "sbatch"):
        (tmp_path / name).write_text('#!/bin/sh\ncat "$1" > "$0.script"; echo "Submitted job 5"\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def submit(*flags):
        shared = ["--shared_folder", str(tmp_path / "my jobs"), "--coco_path", "x"]
        assert run_with_submitit.run([*shared, *flags]) == 0, capsys.readouterr().err
        return (tmp_path / "sbatch.script").read_text().splitlines()

    return submit


def test_flags_reach_slurm(script):
    lines = script("--nodes", "2", "--gpus_per_node", "4", "--time", "90", "--partition", "big")
    for wanted in (
        *("nodes=2", "gpus-per-node=4", "ntasks-per-node=4", "time=90", "partition=big"),
        *("signal=USR1@300", "requeue", "job-name=detr", "cpus-per-task=10"),
    ):
        assert f"#SBATCH --{wanted}" in lines
    assert not any("account" in line or "qos" in line for line in lines)
    assert "export SUBMITIT_PREEMPT_SIGNAL=USR1" in lines
    assert any(line.startswith("srun ") and "--kill-on-bad-exit=1" in line for line in lines)


def test_a_job_that_is_not_to_come_again(script):
    lines = script("--no_requeue", "--gpus_per_node", "0")
    assert "#SBATCH --no-requeue" in lines and "#SBATCH --requeue" not in lines
    assert not any("gpus" in line for line in lines)


@pytest.mark.parametrize(("minutes", "delay"), [("5", 150), ("1", 30), ("10", 300), ("11", 300)])
def test_a_short_job_has_time_to_train_before_the_signal(script, capsys, minutes, delay):
    assert f"#SBATCH --signal=USR1@{delay}" in script("--time", minutes)
    shortened = f"--signal_delay {delay}: half of the time limit" in capsys.readouterr().out
    assert shortened == (delay < 300)


def test_a_job_that_slurm_refuses(tmp_path, script, capsys):
    for name in ("srun", "sbatch"):
        (tmp_path / name).write_text("#!/bin/sh\necho invalid partition >&2; exit 1\n")
    shared = ["--shared_folder", str(tmp_path / "jobs"), "--coco_path", "x"]
    assert run_with_submitit.run(shared) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert "error: Slurm rejects the job: " in line and "invalid partition" in line


# ---- flags


def test_what_is_left_over_is_for_main(tmp_path):
    config = tmp_path / "run.txt"
    config.write_text("--lr 0.5 --epochs 7\n")
    argv = [f"@{config}", "--coco_path", "c", "--nodes", "3", "--scales", "64", "96", "--masks"]
    options, rest = run_with_submitit.build_parser().parse_known_args(
        ["--shared_folder", "s", *argv]
    )
    assert options.nodes == 3
    assert rest == [f"@{config}", "--coco_path", "c", "--scales", "64", "96", "--masks"]
    args = run_with_submitit.main.build_parser().parse_args(rest)
    assert (args.lr, args.epochs, args.scales, args.masks) == (0.5, 7, [64, 96], True)


def test_mistakes_are_found_before_anything_is_submitted(tmp_path, capsys, monkeypatch):
    shared = ["--shared_folder", str(tmp_path / "jobs")]
    monkeypatch.setenv("PATH", str(tmp_path))
    for flags, words in [
        (["--lr", "-1"], "--lr -1.0: must be at least 0"),
        (["--overwrite"], "--overwrite (start a new run in "),
        (["--local", "--nodes", "2"], "--nodes 2: --local runs on one machine"),
        ([], "Slurm is not available (srun not found)"),
        (["--local", "--time", "5", "--signal_delay", "300"], "--signal_delay 300 seconds: must"),
    ]:
        assert run_with_submitit.run([*shared, *flags]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"run_with_submitit.py: error: {words}")
    numbers = ("--gpus_per_node", "--nodes", "--time", "--signal_delay", "--processes_per_node")
    negative = [[*shared, flag, "-1"] for flag in numbers]
    for wrong in ([], [*shared, "--epoch_number", "3"], *negative):
        with pytest.raises(SystemExit, match="2"):
            run_with_submitit.run(wrong)
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "jobs").exists()


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        argv = ["--shared_folder", str(folder), "--local", "--coco_path", "x"]
        assert run_with_submitit.run(argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"--shared_folder {folder} cannot be written (" in line


@pytest.mark.parametrize(("flags", "added"), [([], True), (["--eval", "--resume", "x"], False)])
def test_a_training_continues_and_an_evaluation_does_not(monkeypatch, tmp_path, flags, added):
    submitted = []

    class Executor:
        submit = staticmethod(submitted.append)

    monkeypatch.setattr(run_with_submitit, "_local_executor", lambda options: Executor)
    options = run_with_submitit.build_parser().parse_args(["--shared_folder", "s", "--local"])
    run_with_submitit.submit(options, flags)
    assert submitted[0].argv == [*flags, *(["--auto_resume"] if added else [])]
    assert submitted[0].checkpoint().function is submitted[0]


def test_a_local_task_finds_the_place_that_slurm_would_give():
    class Job:
        global_rank, local_rank, num_tasks, job_id = 1, 1, 2, "77"

    variables = run_with_submitit.slurm_variables(Job)
    launch = detect_launch(variables)
    assert launch == Launch("slurm", 1, 2, 1)
    assert rendezvous_address("env://", launch, variables) == "tcp://localhost:13232"


def test_an_unexpected_error_of_a_task_ends_it_at_once(monkeypatch, capsys, tmp_path):
    def fail(argv):
        raise RuntimeError("CUDA out of memory")

    job = SimpleNamespace(cluster="slurm", paths=SimpleNamespace(folder=tmp_path))
    submitit = SimpleNamespace(JobEnvironment=lambda: job)
    monkeypatch.setattr(run_with_submitit, "_submitit", lambda: submitit)
    monkeypatch.setattr(run_with_submitit.main, "run", fail)
    statuses = []
    monkeypatch.setattr(run_with_submitit, "exit_process", statuses.append)
    run_with_submitit.Training([])()
    assert statuses == [1] and capsys.readouterr().err.endswith("CUDA out of memory\n")
