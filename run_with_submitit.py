"""Submit a run of main.py to Slurm, and again whenever it is pre-empted or its time is up.

    python run_with_submitit.py --shared_folder /shared/me/detr --nodes 2 --gpus_per_node 8 \
        --partition gpu --time 1440 @configs/detr_r50.txt --coco_path /path/to/coco

All flags that are not listed by ``--help`` go to main.py. With ``--local`` the job runs here, and
the command ends with it.
"""

import argparse
import importlib
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import main
from training.flags import check_flags
from util.cli.command_line import ArgumentParser, FlagGroup, run_command
from util.distributed.processes import exit_process, exit_status_of
from util.errors import UserError

_PROJECT = str(Path(__file__).resolve().parent)
# What main.py makes of it: the step is finished and saved, and the exit status says so.
_PREEMPTED = signal.SIGUSR1
# Read by submitit where it is imported: the signal that is sent before the time is up.
_JOB_ENVIRONMENT = {
    "SUBMITIT_PREEMPT_SIGNAL": _PREEMPTED.name.removeprefix("SIG"),
    "PYTHONPATH": os.pathsep.join(filter(None, (_PROJECT, os.environ.get("PYTHONPATH")))),
}
_PASSED_ON = ("partition", "account", "qos", "constraint", "mem")


class Training:
    """What each task of a job does; submitit writes it to a file and calls it in the job.

    Args:
        argv: flags for main.py.
        requeue: whether the job is put into the queue again when it is told to make room.
    """

    def __init__(self, argv: Sequence[str], requeue: bool = True):
        self.argv = list(argv)
        self.requeue = requeue

    def __call__(self) -> None:
        """Train; the process ends with the status of main.py if that is not 0."""
        job = _submitit().JobEnvironment()
        if job.cluster == "local":
            os.environ.update(variables_of_slurm(job))
        argv = _in_folder(self.argv, job.paths.folder)
        status = exit_status_of(lambda: main.run(argv))
        if status == 128 + _PREEMPTED and self.requeue:
            self._put_into_queue_again(job)
        if status:
            exit_process(status)

    def checkpoint(self) -> Any:
        """What submitit puts into the queue where a signal comes before the run takes them."""
        return _submitit().helpers.DelayedSubmission(self) if self.requeue else None

    def _put_into_queue_again(self, job: Any) -> None:
        """The job starts anew under its number; with ``--auto_resume`` it continues."""
        if job.global_rank == 0:
            job._requeue(0)  # a hook for each kind of cluster; ends a local task by itself
        sys.exit(0)  # an error might end the others before the job is in the queue


def variables_of_slurm(job: Any) -> dict[str, str]:
    """The variables that Slurm would set, for a task of a job on this machine alone.

    Args:
        job: a ``submitit.JobEnvironment``.
    """
    return {
        "SLURM_PROCID": str(job.global_rank),
        "SLURM_NTASKS": str(job.num_tasks),
        "SLURM_LOCALID": str(job.local_rank),
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_ID": job.job_id,
    }


def build_parser() -> ArgumentParser:
    """The launcher's own flags. They cannot be shortened, what is left over is for main.py."""
    parser = ArgumentParser(
        "run_with_submitit.py",
        description="Run main.py on Slurm. Flags that are not listed here go to main.py.",
        allow_abbrev=False,
    )
    add, group = FlagGroup(parser, "job").add, FlagGroup(parser, "kind of run")
    add("--shared_folder", "folder that all machines see, for logs and checkpoints", required=True)
    add("--nodes", "machines", default=1, type=int)
    add("--gpus_per_node", "GPUs of each, with a process each; 0: CPUs", default=8, type=int)
    add("--processes_per_node", "processes on each machine without GPUs", default=1, type=int)
    add("--cpus_per_process", "processor cores of each process", default=10, type=int)
    add("--time", "minutes after which the job has to make room", default=24 * 60, type=int)
    add("--signal_delay", "seconds before that in which it saves", default=300, type=int)
    add("--job_name", "name in the queue", default="detr")
    for name in _PASSED_ON:
        add(f"--{name}", "passed on to sbatch")
    group.add_switch("--no_requeue", "not again into the queue when the job has to make room")
    group.add_switch("--local", "run on this machine, without Slurm, and wait for the end")
    return parser


def submit(options: argparse.Namespace, argv: Sequence[str]) -> Any:
    """Submit a job.

    Args:
        options: of `build_parser`.
        argv: flags for main.py.

    Returns:
        the job, a ``submitit.Job``.

    Raises:
        UserError: a flag that no run can work with, or there is no Slurm here.
    """
    training = Training(_checked(argv), not options.no_requeue)
    executor = _local_executor(options) if options.local else _slurm_executor(options)
    return executor.submit(training)


def _checked(argv: Sequence[str]) -> list[str]:
    """Flags that a run can work with; a training among them continues where it was stopped."""
    args = main.parse_command_line(argv).args
    if args.eval:
        check_flags(args)
        return list(argv)
    args.output_dir = args.output_dir or "that of the job"
    args.auto_resume = True
    check_flags(args)
    return [*argv, "--auto_resume"]


def _in_folder(argv: Sequence[str], folder: Path) -> list[str]:
    """Flags that let a run write into the folder of its job, if they name no other."""
    named = main.build_parser().parse_args(argv).output_dir
    return list(argv) if named else [*argv, "--output_dir", str(folder)]


def _processes_per_node(options: argparse.Namespace) -> int:
    return int(options.gpus_per_node or options.processes_per_node)


def _log_folder(options: argparse.Namespace) -> Path:
    """Of each job, by its number."""
    return Path(options.shared_folder).absolute() / "%j"


def _local_executor(options: argparse.Namespace) -> Any:
    if options.nodes > 1:
        raise UserError(f"--nodes {options.nodes}: --local has one machine")
    executor = _submitit().LocalExecutor(_log_folder(options))
    executor.update_parameters(
        timeout_min=options.time,
        gpus_per_node=options.gpus_per_node,
        tasks_per_node=_processes_per_node(options),
        signal_delay_s=options.signal_delay,
    )
    return executor


def _slurm_executor(options: argparse.Namespace) -> Any:
    if shutil.which("srun") is None:
        raise UserError("no Slurm here (srun is not found): submit on a login node, or add --local")
    executor = _submitit().SlurmExecutor(_log_folder(options))
    passed_on = {name: getattr(options, name) for name in _PASSED_ON if getattr(options, name)}
    executor.update_parameters(
        job_name=options.job_name,
        nodes=options.nodes,
        ntasks_per_node=_processes_per_node(options),
        cpus_per_task=options.cpus_per_process,
        time=options.time,
        signal_delay_s=options.signal_delay,
        setup=[f"export {name}={shlex.quote(value)}" for name, value in _JOB_ENVIRONMENT.items()],
        # One that dies would leave the others waiting.
        srun_args=["--kill-on-bad-exit=1"],
        # Slurm itself puts back what it pre-empts, or what loses a machine.
        additional_parameters={"no-requeue" if options.no_requeue else "requeue": True},
        **({"gpus_per_node": options.gpus_per_node} if options.gpus_per_node else {}),
        **passed_on,
    )
    return executor


def _submitit() -> ModuleType:
    """Submitit, which reads its signal where it is imported."""
    os.environ.update(_JOB_ENVIRONMENT)
    try:
        return importlib.import_module("submitit")
    except ImportError as err:
        raise UserError("submitit is missing: pip install submitit") from err


def _submit_and_tell(options: argparse.Namespace, argv: Sequence[str]) -> None:
    job = submit(options, argv)
    print(f"Job {job.job_id}, log: {job.paths.stdout}")
    if not options.local:
        return
    job.wait()
    if not all(job.task(rank).paths.result_pickle.exists() for rank in range(job.num_tasks)):
        raise UserError(f"job {job.job_id} has ended early, see {job.paths.stderr}")
    print(f"Job {job.job_id} is done")


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status, see `util.cli.command_line.run_command`."""
    options, rest = build_parser().parse_known_args(argv)
    return run_command("run_with_submitit.py", lambda: _submit_and_tell(options, rest))


if __name__ == "__main__":
    sys.exit(run())
