"""Train and evaluate DETR: ``python main.py --help``.

Modules that import PyTorch take seconds to load. They are imported inside functions, so that
``--help`` and errors on the command line do not wait for them.
"""

import argparse
import contextlib
import importlib
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from training.flags.arguments import default_device, flag_actions, get_args_parser
from util.cli.closed_pipes import outlive_readers_of_output
from util.cli.command_line import ArgumentParser, run_command
from util.cli.early_interrupt import end_at_once_on_interrupt
from util.options import fill_in_new_flags, prints_short

if TYPE_CHECKING:
    from torch import nn

    from models.criterion import SetCriterion
    from training.checkpoint import TrainingState
    from training.data import Data
    from training.loop import Run
    from training.resume import Start
    from training.run_files import RunFolder
    from training.terminal.output import Output

SAVE_MEMORY = (
    "lower --batch_size (raise --accum_steps by the same factor to keep the images per step), "
    "--eval_batch_size, --scales or --max_size, or use --amp bf16"
)


def main(
    args: argparse.Namespace, given: Collection[str] | None = None, run_name: str = ""
) -> None:
    """Train or evaluate, depending on the flags.

    Called with ``args`` alone, from a notebook or a script, it behaves like the original: without
    ``args.output_dir`` nothing is written.

    Args:
        args: all flags; flags that the original does not have may be missing. Modified in place:
            missing flags are added, ``output_dir`` is set, and `connected` sets ``distributed``,
            in a distributed run also ``rank``, ``world_size``, ``gpu`` and ``dist_backend``.
        given: names of the flags given explicitly; others may be restored from a checkpoint, see
            `training.flags.saved.resolve_flags`.
        run_name: without ``args.output_dir`` training writes to ``outputs/{run_name}-N``, with the
            first free N; empty: nothing is written.

    Raises:
        UserError: if flags, files or data are invalid.
        DivergenceError: if training diverges.
        ConnectionLostError: if another process died or hangs.
    """
    from training.flags.checks import check_flags
    from training.output_folder import build_output_folder
    from util.distributed.processes import connected, use_gpu
    from util.reproducibility.determinism import determinism_restored, explained_refusals
    from util.reproducibility.provenance import versions
    from util.system.devices import check_device
    from util.system.memory import keep_freed_memory

    fill_in_new_flags(args)
    check_flags(args)
    with connected(args), determinism_restored(), explained_refusals():
        check_device(args.device)
        use_gpu(args.device)
        if args.device == "cpu":
            keep_freed_memory()
        if not prints_short(args.log_style):
            print(f"git:\n  {versions()['commit']}\n")
        with build_output_folder(args, run_name) as args.output_dir:
            _train_or_evaluate(args, given)


def _train_or_evaluate(args: argparse.Namespace, given: Collection[str] | None) -> None:
    """Build everything from the flags, restore a checkpoint, then train or evaluate."""
    from training.data import build_data, build_loaders
    from training.evaluation import build_evaluation
    from training.flags.config_file import build_config
    from training.loop import Run, build_loop_settings
    from training.network import distribute
    from training.nonfinite import NonFinitePolicy
    from training.optimization.plan import build_plan
    from training.resume import averaged_model, find_start
    from training.run_files import RunFolder
    from training.tensorboard import build_tensorboard
    from training.terminal.output import build_output
    from util.distributed.processes import get_rank
    from util.reproducibility.determinism import make_deterministic
    from util.reproducibility.random_state import seed_everything
    from util.step_watch import StepWatch
    from util.terminal.transient_lines import transient_lines

    num_classes_given = args.num_classes
    folder = RunFolder(args.output_dir)
    start = find_start(folder, args.auto_resume, args.resume, args.finetune, args.frozen_weights)
    args = _resolve_flags(args, start, given)
    if args.deterministic:
        make_deterministic()
    seed_everything(args.seed + get_rank())
    output = build_output(args)
    folder = RunFolder(args.output_dir, args.keep_last, args.lr_drop)
    config = build_config(args, flag_actions(), num_classes_given)
    with transient_lines() if output.is_short else contextlib.nullcontext():
        data = build_data(args, start)
    args.num_classes = data.num_classes
    training, criterion, postprocessors = _build_training(args, start, data, folder, output)
    args.start_epoch = training.progress.epoch
    parallel_model = distribute(training.model)
    training.averaged = averaged_model(training, args.ema_decay, start.resume, args.eval)

    train_loader, val_loader = build_loaders(args, data, training.progress.bad_images)
    policy = NonFinitePolicy(training, criterion, folder.path, vars(args))
    evaluation = build_evaluation(args, criterion, postprocessors, val_loader, data, folder, output)
    run = Run(
        settings=build_loop_settings(args),
        plan=build_plan(args),
        flags=vars(args),
        config=config,
        folder=folder,
        output=output,
        classes=data.checkpoint_entries(),
        train_loader=train_loader,
        training=training,
        parallel_model=parallel_model,
        criterion=criterion,
        evaluation=evaluation,
        watch=StepWatch(next(training.model.parameters()).device, policy.handle),
        tensorboard=build_tensorboard(args, folder.path, training.progress.epoch),
    )
    if args.eval:
        run.score()
    else:
        _train(run, data, start)


def _build_training(
    args: argparse.Namespace,
    start: "Start",
    data: "Data",
    folder: "RunFolder",
    output: "Output",
) -> "tuple[TrainingState, SetCriterion, dict[str, nn.Module]]":
    """Build training state, criterion and post-processors; load weights, or resume training."""
    from training.checkpoint import TrainingState
    from training.network import build_network, num_trainable
    from training.optimization.optimizer_state import build_optimization
    from training.progress import Progress
    from training.resume import load_weights, resume_training
    from training.terminal.opening import build_opening

    model, criterion, postprocessors = build_network(args, data.classes.is_thing, data.category_ids)
    output.log_line(f"number of params: {num_trainable(model)}")
    if output.is_short:
        print(build_opening(args, start, data, model))
    load_weights(model, start, args.backbone, args.backbone_weights, data.class_of_row())
    optimization = build_optimization(args, model)
    training = TrainingState(model, *optimization, Progress(epoch=args.start_epoch))
    if start.resume is not None and not args.eval:
        resume_training(training, start.resume, vars(args), folder)
    return training, criterion, postprocessors


def _train(run: "Run", data: "Data", start: "Start") -> None:
    """Train, then write the report of the run."""
    from report.at_end import write_report_at_end
    from training.optimization.plan import warn_of_few_steps, warn_of_random_positions

    warn_of_few_steps(run.plan, len(data.train_set), start)
    warn_of_random_positions(run.flags["position_embedding"], run.flags["lr_backbone"], start)
    run.train()
    write_report_at_end(run.folder.path, data.val_set, data.ground_truth, data.train_set)
    run.output.end(run.progress, run.folder.path)


def _resolve_flags(
    args: argparse.Namespace, start: "Start", given: Collection[str] | None
) -> argparse.Namespace:
    """Restore flags from the checkpoints, check and print them. Collective.

    Returns:
        a copy; ``amp_auto`` is the reason for the choice of ``--amp auto``, else empty.
    """
    from datasets import build_scales
    from training.flags.checks import check_flags, check_training_flags, require_same_flags
    from training.flags.precision import agree_on_precision
    from training.flags.saved import resolve_flags
    from training.resume import Start

    args = resolve_flags(args, start, given, flag_actions())
    check_flags(args)
    check_training_flags(args)
    require_same_flags(args)
    precision = agree_on_precision(args.amp, args.device, start)
    args.amp, args.amp_auto = precision.amp, precision.auto_reason
    if args.eval and start == Start():
        print("--eval without --resume: evaluating random weights")
    if not prints_short(args.log_style):
        print(args)
        if precision.auto_reason:
            print(f"Computing in {precision}")
    args.scales = build_scales(args)
    return args


class CommandLine(NamedTuple):
    """A parsed command line: the arguments of `main`."""

    args: argparse.Namespace
    given: set[str]
    run_name: str


def build_parser() -> ArgumentParser:
    """Command-line parser with ``--help`` and ``@file`` arguments.

    ``--device`` is empty by default, see `parse_command_line`.
    """
    return ArgumentParser(
        "main.py",
        usage="main.py [@configs/NAME.txt] [flags]",
        description="Train and evaluate DETR. @configs/NAME.txt reads flags from a file.",
        parents=[get_args_parser(device="")],
        fromfile_prefix_chars="@",
    )


def parse_command_line(argv: Sequence[str] | None = None) -> CommandLine:
    """Parse a command line, by default ``sys.argv``.

    Raises:
        SystemExit: after ``--help``, or if the command line is invalid.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    parser.refuse_overridden(argv)
    given = parser.given_flags(argv)
    if "freeze_backbone_epochs" in given and args.freeze_backbone_epochs == 0:
        # A recipe or a checkpoint may set both flags; 0 turns off both.
        args.freeze_batch_size = None
        given.add("freeze_batch_size")
    args.device = args.device or default_device()
    run_name = "" if "output_dir" in given else _run_name(argv, args)
    return CommandLine(args, given, run_name)


def _run_name(argv: Sequence[str] | None, args: argparse.Namespace) -> str:
    """NAME of the last ``@configs/NAME.txt`` on the command line, else of the data."""
    configs = [word[1:] for word in (sys.argv[1:] if argv is None else argv) if word[:1] == "@"]
    if configs:
        return Path(configs[-1]).stem
    if path := args.data or args.voc_path or args.yolo_path:
        data = Path(path).absolute()
        return (data.parent if data.suffix else data).name
    return args.dataset_file


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status, see `util.cli.command_line.run_command`."""
    command_line = parse_command_line(argv)
    # Import PyTorch before `run_command`, so that Ctrl-C during this import still ends in one line.
    importlib.import_module("training.loop")
    return run_command("main.py", lambda: main(*command_line), SAVE_MEMORY)


if __name__ == "__main__":
    end_at_once_on_interrupt("main.py")
    outlive_readers_of_output()
    parse_command_line()  # --help and invalid flags exit here, before the import of PyTorch
    from util.distributed.processes import exit_process, exit_status_of

    exit_process(exit_status_of(run))
