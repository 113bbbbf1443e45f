"""Run main.py as a Slurm job, which is requeued on preemption and at its time limit.

    python run_with_submitit.py --shared_folder /shared/me/detr --nodes 2 --gpus_per_node 8 \
        --partition gpu --time 1440 @configs/detr_r50.txt --coco_path /path/to/coco

Flags that ``--help`` does not list are passed to main.py. With ``--local`` the job runs on this
machine, and the command waits for it to finish.
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
from training.flags.checks import check_flags
from util.cli.command_line import ArgumentParser, FlagGroup, positive_int, run_command
from util.distributed.processes import exit_process, exit_status_of
from util.errors import UserError

_PROJECT = str(Path(__file__).resolve().parent)
# On this signal main.py finishes the step, saves, and exits with status 128 + signal.
_PREEMPTED = signal.SIGUSR1
# submitit reads from the environment, when imported, which signal to send before the time limit.
_JOB_ENVIRONMENT = {
    "SUBMITIT_PREEMPT_SIGNAL": _PREEMPTED.name.removeprefix("SIG"),
    "PYTHONPATH": os.pathsep.join(filter(None, (_PROJECT, os.environ.get("PYTHONPATH")))),
}
_SIGNAL_DELAY = 300  # seconds
_SBATCH_OPTIONS = ("partition", "account", "qos", "constraint", "mem")


class Training:
    """Training in one task of a job. submitit pickles it and calls it in each task.

    Args:
        argv: flags for main.py.
        requeue: requeue the job on preemption and at its time limit.
    """

    def __init__(self, argv: Sequence[str], requeue: bool = True):
        self.argv = list(argv)
        self.requeue = requeue

    def __call__(self) -> None:
        """Train, and exit with the status of main.py unless it is 0."""
        job = _submitit().JobEnvironment()
        if job.cluster == "local":
            os.environ.update(slurm_variables(job))
        argv = _in_folder(self.argv, job.paths.folder)
        status = exit_status_of(lambda: main.run(argv))
        if status == 128 + _PREEMPTED and self.requeue:
            self._requeue(job)
        if status:
            exit_process(status)

    def checkpoint(self) -> Any:
        """Called by submitit on a signal before main.py handles signals: the job to requeue."""
        return _submitit().helpers.DelayedSubmission(self) if self.requeue else None

    def _requeue(self, job: Any) -> None:
        """Requeue the job with the same id; ``--auto_resume`` continues the training."""
        if job.global_rank == 0:
            job._requeue(0)  # implemented per cluster; ends a local task
        sys.exit(0)  # an error status might stop the other tasks before the requeue


def slurm_variables(job: Any) -> dict[str, str]:
    """The environment variables of Slurm, for a task of a local job.

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
    """Create the parser of the launcher, without abbreviations: other flags are for main.py."""
    parser = ArgumentParser(
        "run_with_submitit.py",
        usage="run_with_submitit.py --shared_folder DIR [flags] [flags of main.py]",
        description="Run main.py on Slurm. Flags that are not listed here are passed to main.py.",
        allow_abbrev=False,
    )
    add, group = FlagGroup(parser, "job").add, FlagGroup(parser, "mode")
    add("--shared_folder", "folder for logs and checkpoints, shared by all nodes", required=True)
    add("--nodes", "number of nodes", default=1, type=positive_int)
    add(
        "--gpus_per_node",
        "GPUs per node, with one process each; 0: CPU only",
        default=8,
        type=_zero_or_more,
    )
    add("--processes_per_node", "processes per node without GPUs", default=1, type=positive_int)
    add("--cpus_per_process", "CPU cores per process", default=10, type=positive_int)
    add("--time", "time limit in minutes", default=24 * 60, type=positive_int)
    add(
        "--signal_delay",
        "seconds before the time limit at which the run saves and stops "
        f"(default: {_SIGNAL_DELAY}, at most half of the time limit)",
        type=positive_int,
    )
    add("--job_name", "job name in Slurm", default="detr")
    for name in _SBATCH_OPTIONS:
        add(f"--{name}", f"--{name} of sbatch")
    group.add_switch("--no_requeue", "do not requeue the job on preemption or at its time limit")
    group.add_switch("--local", "run on this machine without Slurm, and wait for the job to finish")
    return parser


def _zero_or_more(text: str) -> int:
    return 0 if text == "0" else positive_int(text)


def signal_delay(options: argparse.Namespace) -> int:
    """Seconds between the stop signal and the time limit.

    Raises:
        UserError: if ``--signal_delay`` is not shorter than the time limit: the job would stop
            immediately and be requeued without progress.
    """
    limit = options.time * 60
    if options.signal_delay is None:
        if limit // 2 < _SIGNAL_DELAY:
            print(f"--signal_delay {limit // 2}: half of the time limit")
        return int(min(_SIGNAL_DELAY, limit // 2))
    if options.signal_delay >= limit:
        raise UserError(
            f"--signal_delay {options.signal_delay} seconds: must be less than --time "
            f"{options.time}, which is {limit} seconds"
        )
    return int(options.signal_delay)


def submit(options: argparse.Namespace, argv: Sequence[str]) -> Any:
    """Submit a job.

    Args:
        options: flags of `build_parser`.
        argv: flags for main.py.

    Returns:
        The ``submitit.Job``.

    Raises:
        UserError: if a flag is invalid, the folder cannot be written, or Slurm rejects the job or
            is not available.
    """
    training = Training(_checked(argv), not options.no_requeue)
    create_executor = _local_executor if options.local else _slurm_executor
    try:
        return create_executor(options).submit(training)
    except OSError as err:
        raise UserError(
            f"--shared_folder {options.shared_folder} cannot be written ({err.strerror}): choose "
            "another folder"
        ) from err
    except _submitit().core.utils.FailedJobError as err:
        raise UserError(f"Slurm rejects the job: {err}") from err


def _checked(argv: Sequence[str]) -> list[str]:
    """Check the flags for main.py; for training, add ``--auto_resume``."""
    args = main.parse_command_line(argv).args
    if args.eval:
        check_flags(args)
        return list(argv)
    args.output_dir = args.output_dir or "folder of the job"
    args.auto_resume = True
    check_flags(args)
    return [*argv, "--auto_resume"]


def _in_folder(argv: Sequence[str], folder: Path) -> list[str]:
    """Add the folder of the job as ``--output_dir`` if none is given."""
    given = main.build_parser().parse_args(argv).output_dir
    return list(argv) if given else [*argv, "--output_dir", str(folder)]


def _processes_per_node(options: argparse.Namespace) -> int:
    return int(options.gpus_per_node or options.processes_per_node)


def _log_folder(options: argparse.Namespace) -> Path:
    """The log folder; submitit replaces %j by the job id."""
    return Path(options.shared_folder).absolute() / "%j"


def _local_executor(options: argparse.Namespace) -> Any:
    if options.nodes > 1:
        raise UserError(f"--nodes {options.nodes}: --local runs on one machine")
    delay = signal_delay(options)
    executor = _submitit().LocalExecutor(_log_folder(options))
    executor.update_parameters(
        timeout_min=options.time,
        gpus_per_node=options.gpus_per_node,
        tasks_per_node=_processes_per_node(options),
        signal_delay_s=delay,
    )
    return executor


def _slurm_executor(options: argparse.Namespace) -> Any:
    if shutil.which("srun") is None:
        raise UserError(
            "Slurm is not available (srun not found): submit on a login node, or add --local"
        )
    delay = signal_delay(options)
    executor = _submitit().SlurmExecutor(_log_folder(options))
    given = {name: getattr(options, name) for name in _SBATCH_OPTIONS if getattr(options, name)}
    executor.update_parameters(
        job_name=options.job_name,
        nodes=options.nodes,
        ntasks_per_node=_processes_per_node(options),
        cpus_per_task=options.cpus_per_process,
        time=options.time,
        signal_delay_s=delay,
        setup=[f"export {name}={shlex.quote(value)}" for name, value in _JOB_ENVIRONMENT.items()],
        # Without it, the other tasks would wait forever for a task that has died.
        srun_args=["--kill-on-bad-exit=1"],
        # Slurm itself requeues jobs that are preempted or lose a node.
        additional_parameters={"no-requeue" if options.no_requeue else "requeue": True},
        **({"gpus_per_node": options.gpus_per_node} if options.gpus_per_node else {}),
        **given,
    )
    return executor


def _submitit() -> ModuleType:
    """Import submitit with `_JOB_ENVIRONMENT` set."""
    os.environ.update(_JOB_ENVIRONMENT)
    try:
        return importlib.import_module("submitit")
    except ImportError as err:
        raise UserError("submitit is not installed: pip install submitit") from err


def _submit_and_report(options: argparse.Namespace, argv: Sequence[str]) -> None:
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
    return run_command("run_with_submitit.py", lambda: _submit_and_report(options, rest))


if __name__ == "__main__":
    sys.exit(run())
