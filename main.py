"""Train and evaluate DETR: ``python main.py --help``."""

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("main.py")

import argparse
import contextlib
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import torch

from training.folder import RunFolder
from training.loop import Run
from training.output_folder import lies_in, numbered_folder, refuse_used_folder
from training.resume import find_start
from training.saved_flags import settle_flags
from util.cli.command_line import ArgumentParser, FlagGroup, can_have, run_command
from util.determinism import explained_refusals, make_deterministic
from util.devices import check_device, parse_device
from util.distributed.processes import connected, exit_process, exit_status_of, get_rank, use_gpu
from util.errors import UserError
from util.options import NEW_FLAG_DEFAULTS, fill_in_new_flags
from util.provenance import get_sha
from util.random_state import seed_everything

_AT_LEAST_ONE = (
    *("batch_size", "eval_batch_size", "epochs", "lr_drop", "max_size", "num_classes"),
    *("dec_layers", "hidden_dim", "nheads", "num_queries", "dim_feedforward"),
    *("keep_last", "patience", "accum_steps", "dist_timeout"),
)
_NOT_NEGATIVE = (
    *("lr", "lr_backbone", "lr_min", "weight_decay", "clip_max_norm", "dropout", "enc_layers"),
    *("eos_coef", "num_workers", "seed", "start_epoch", "panoptic_threshold", "crop_prob"),
    *("save_every", "max_skipped_steps", "skip_bad_images", "ema_decay"),
)


def get_args_parser() -> argparse.ArgumentParser:
    """All flags, as a parent parser: without ``--help``."""
    parser = argparse.ArgumentParser("Set transformer detector", add_help=False)
    _add_training_flags(FlagGroup(parser, "training"))
    _add_model_flags(FlagGroup(parser, "model"))
    _add_loss_flags(FlagGroup(parser, "matching and loss"))
    _add_data_flags(FlagGroup(parser, "data"))
    _add_run_flags(FlagGroup(parser, "run"))
    return parser


def _add_training_flags(group: FlagGroup) -> None:
    add = group.add
    add("--lr", "learning rate of everything but the backbone", default=1e-4, type=float)
    add("--lr_backbone", "learning rate of the backbone, 0 freezes it", default=1e-5, type=float)
    add("--batch_size", "images in a batch of one process", default=2, type=int)
    add("--accum_steps", "batches a step, as if of so many times the processes", type=int)
    add("--weight_decay", "weight decay of AdamW", default=1e-4, type=float)
    add("--epochs", "number of epochs to train", default=300, type=int)
    add("--lr_drop", "epochs between drops of the learning rate by 10", default=200, type=int)
    add("--lr_scheduler", "step by --lr_drop, or cosine to --lr_min", choices=["step", "cosine"])
    add(
        "--lr_min",
        "final learning rate of a cosine schedule; lower rates stay constant",
        type=float,
    )
    add("--clip_max_norm", "largest gradient norm, 0 for no limit", default=0.1, type=float)
    precisions = ["off", "bf16", "fp16"]
    add("--amp", "bf16, or fp16 on a GPU: mixed precision for the model", choices=precisions)
    add("--max_skipped_steps", "steps that may be left out because they are not finite", type=int)
    add("--ema_decay", "evaluate and save averaged weights too, 0: off; often 0.9998", type=float)
    add("--patience", "end after so many epochs without a better validation score", type=int)


def _add_model_flags(group: FlagGroup) -> None:
    add, add_switch = group.add, group.add_switch
    add("--frozen_weights", "checkpoint whose detector stays fixed; needs --masks", type=str)
    add("--backbone", "name of a torchvision ResNet or ResNeXt", default="resnet50", type=str)
    add("--backbone_weights", "where the backbone starts: imagenet, none (random) or a file")
    add("--backbone_norm", "batch trains norms and all stages", choices=["frozen", "batch"])
    add_switch("--dilation", "DC5: dilate the last stage instead of halving its resolution")
    choices = ("sine", "learned")
    add("--position_embedding", "encoding of positions", default="sine", type=str, choices=choices)
    add("--enc_layers", "encoder layers of the transformer", default=6, type=int)
    add("--dec_layers", "decoder layers of the transformer", default=6, type=int)
    add("--dim_feedforward", "hidden width of its perceptrons", default=2048, type=int)
    add("--hidden_dim", "channels of the transformer", default=256, type=int)
    add("--dropout", "dropout in the transformer", default=0.1, type=float)
    add("--nheads", "attention heads, a divisor of --hidden_dim", default=8, type=int)
    add("--num_queries", "largest number of objects found in an image", default=100, type=int)
    add_switch("--pre_norm", "normalise before each part of a layer, not after it")
    add("--num_classes", "classes of the model; by default read from the data", type=int)


def _add_loss_flags(group: FlagGroup) -> None:
    add = group.add
    group.add_switch(
        "--no_aux_loss", "no losses after each decoder layer", dest="aux_loss", action="store_false"
    )
    add("--set_cost_class", "matching: weight of the class probability", default=1, type=float)
    add("--set_cost_bbox", "matching: weight of the L1 distance of boxes", default=5, type=float)
    add("--set_cost_giou", "matching: weight of the generalized IoU", default=2, type=float)
    add("--mask_loss_coef", "loss: weight of the focal mask loss", default=1, type=float)
    add("--dice_loss_coef", "loss: weight of the dice mask loss", default=1, type=float)
    add("--bbox_loss_coef", "loss: weight of the L1 distance of boxes", default=5, type=float)
    add("--giou_loss_coef", "loss: weight of the generalized IoU", default=2, type=float)
    add("--eos_coef", "loss: weight of the no-object class", default=0.1, type=float)


def _add_data_flags(group: FlagGroup) -> None:
    add, add_switch = group.add, group.add_switch
    kinds = "coco, coco_panoptic, or drawn without a download: shapes, shapes_panoptic"
    add("--dataset_file", f"kind of data: {kinds}", default="coco")
    add("--coco_path", "COCO directory: train2017/, val2017/, annotations/", type=str)
    add("--coco_panoptic_path", "panoptic data: panoptic_val2017/, …, annotations/", type=str)
    add_switch("--remove_difficult", "kept from the original; COCO data has no such mark")
    add("--train_images", "folder of the training images, wherever it is")
    add("--train_ann", "COCO annotation file of the training images")
    add("--val_images", "folder of the validation images")
    add("--val_ann", "COCO annotation file of the validation images")
    add("--scales", "short sides of training images; evaluation: the largest", type=int, nargs="+")
    add("--max_size", "largest long side of an image", type=int)
    add("--crop_prob", "share of training images that are cropped", type=float)
    add("--skip_bad_images", "images that may be replaced if they cannot be read", type=int)
    add_switch("--skip_checks", "start although the data checks found errors")
    add("--num_workers", "processes that load data, for each training process", default=2, type=int)


def _add_run_flags(group: FlagGroup) -> None:
    add = group.add
    group.add_switch("--masks", "find masks too: segmentation")
    folder = "folder for checkpoints and logs; training without the flag: outputs/NAME-N, '': none"
    add("--output_dir", folder, default="")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", "cuda or cpu", default=device)
    add("--seed", "seed of weights, augmentation and order", default=42, type=int)
    group.add_switch("--deterministic", "the same bits on a GPU too; slower")
    add("--resume", "checkpoint file or address to continue or evaluate", default="")
    group.add_switch("--auto_resume", "continue from the newest checkpoint in --output_dir, if any")
    group.add_switch("--overwrite", "start over in a used --output_dir, old files to earlier-N/")
    add("--save_every", "steps between checkpoints inside an epoch, 0: none", type=int)
    add("--keep_last", "checkpoints that stay, the newest included", type=int)
    add("--finetune", "checkpoint to start from; classes and queries may differ in number")
    add("--start_epoch", "number of the first epoch", default=0, type=int)
    group.add_switch("--eval", "evaluate the model of --resume and end")
    add("--panoptic_threshold", "least score of a segment in panoptic maps", type=float)
    add("--eval_batch_size", "images in a batch of evaluation (default: --batch_size)", type=int)
    add("--dump_detections", "file for the detections of the last evaluation (COCO results JSON)")
    add("--world_size", "number of processes, set by the launcher", default=1, type=int)
    add("--dist_url", "how processes find each other", default="env://")
    add("--dist_timeout", "seconds that processes wait for each other", type=int)


def main(
    args: argparse.Namespace, given: Collection[str] | None = None, run_name: str = ""
) -> None:
    """Train or evaluate as the flags say.

    Called with ``args`` alone, by a notebook or a script, it behaves as the original does: without
    ``args.output_dir`` nothing is written.

    Args:
        args: all flags.
        given: names of the flags that were given; the others may come from a checkpoint. None:
            those that differ from their default.
        run_name: a training run without ``args.output_dir`` writes to ``outputs/{run_name}-N``,
            with the first free N, and ``args.output_dir`` is set to it; empty: it writes nothing.

    Raises:
        UserError: a mistake in flags, files or data.
        DivergenceError: training has diverged.
        ConnectionLostError: another process is gone or stuck.
    """
    fill_in_new_flags(args)
    check_flags(args)
    given = _changed_flags(args) if given is None else given
    with connected(args), explained_refusals():
        check_device(args.device)
        use_gpu(args.device)
        print(f"git:\n  {get_sha()}\n")
        with _output_folder(args, run_name):
            args, start = find_start(args, RunFolder(args.output_dir))
            args = settle_flags(args, start, given, _is_valid)
            check_flags(args)
            print(args)
            if args.deterministic:
                make_deterministic()
            seed_everything(args.seed + get_rank())
            run = Run(args, start)
            if args.eval:
                run.score()
            else:
                run.train()


@contextlib.contextmanager
def _output_folder(args: argparse.Namespace, run_name: str) -> Iterator[None]:
    """Settle ``args.output_dir`` before anything is loaded. Collective: call on every rank.

    Raises:
        UserError: the folder holds another run, or cannot be made.
    """
    with contextlib.ExitStack() as stack:
        if run_name and not args.output_dir and not args.eval:
            args.output_dir = stack.enter_context(numbered_folder(run_name))
            print(
                f"No --output_dir given: this run writes to {args.output_dir}; to continue it, add "
                f"--output_dir {args.output_dir} --auto_resume"
            )
        elif args.output_dir and not (args.eval or args.auto_resume or args.overwrite):
            refuse_used_folder(args.output_dir, args.resume)
        if args.save_every and not args.output_dir:
            raise UserError("--save_every needs --output_dir")
        if not args.output_dir and not args.eval:
            print("No --output_dir: this run keeps neither checkpoints nor logs")
        yield


def _changed_flags(args: argparse.Namespace) -> set[str]:
    defaults = vars(get_args_parser().parse_args([]))
    return {name for name, value in vars(args).items() if value != defaults.get(name, value)}


def _is_valid(name: str, value: object) -> bool:
    """Whether the flag ``name`` can have a value."""
    actions = {action.dest: action for action in get_args_parser()._actions}
    return name in actions and can_have(actions[name], value)


def check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that no run can work with.

    Raises:
        UserError: names the flag and what it needs.
    """
    for names, least in ((_AT_LEAST_ONE, 1), (_NOT_NEGATIVE, 0)):
        for name in names:
            value = getattr(args, name)
            if value is not None and not value >= least:
                raise UserError(f"--{name} {value}: must be at least {least}")
    parse_device(args.device)
    if args.seed >= 2**31:
        raise UserError(f"--seed {args.seed}: must be below {2**31}")
    if args.ema_decay >= 1:
        raise UserError(f"--ema_decay {args.ema_decay}: must be below 1")
    for name in ("dropout", "panoptic_threshold", "crop_prob"):
        if getattr(args, name) > 1:
            raise UserError(f"--{name} {getattr(args, name)}: must be at most 1 (0.3 for 30 %)")
    if args.dump_detections and not Path(args.dump_detections).absolute().parent.is_dir():
        raise UserError(f"--dump_detections {args.dump_detections}: its folder does not exist")
    if args.dump_detections and Path(args.dump_detections).is_dir():
        raise UserError(f"--dump_detections {args.dump_detections}: is a folder, give a file")
    if args.hidden_dim % args.nheads or args.hidden_dim % 4:
        raise UserError(
            f"--hidden_dim {args.hidden_dim}: must be a multiple of 4 and of --nheads {args.nheads}"
        )
    _check_start(args)
    if args.masks and args.hidden_dim < 16:
        raise UserError(f"--hidden_dim {args.hidden_dim}: --masks needs at least 16")
    if args.panoptic_threshold != NEW_FLAG_DEFAULTS["panoptic_threshold"] and not args.masks:
        raise UserError("--panoptic_threshold is about panoptic maps: it needs --masks")
    if args.frozen_weights and not args.masks:
        raise UserError("--frozen_weights trains a mask head on fixed weights: it needs --masks")
    if args.eval and not (args.resume or args.auto_resume or args.finetune):
        print("--eval without --resume: this evaluates random weights")


def _check_start(args: argparse.Namespace) -> None:
    """Refuse flags that contradict each other on where a run starts."""
    if args.resume and args.finetune:
        raise UserError(
            "--resume continues a run and --finetune starts a new one: give one of them"
        )
    if args.auto_resume and not args.output_dir:
        raise UserError("--auto_resume needs --output_dir: the folder of the run to continue")
    if not args.overwrite:
        return
    if args.eval:
        raise UserError("--overwrite is for training: --eval replaces no results of a training")
    if not args.output_dir:
        raise UserError("--overwrite needs --output_dir: the folder to start over in")
    if args.auto_resume or (args.resume and lies_in(args.resume, Path(args.output_dir))):
        raise UserError(
            f"--overwrite starts over in {args.output_dir}, --auto_resume and --resume of a "
            "checkpoint there continue: give one of them"
        )


def build_parser() -> ArgumentParser:
    """The parser of the command line, with ``--help`` and argument files."""
    return ArgumentParser(
        "main.py",
        description="Train and evaluate DETR. Flags may stand in a file: @configs/NAME.txt",
        parents=[get_args_parser()],
        fromfile_prefix_chars="@",
    )


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status, see `util.cli.command_line.run_command`."""
    parser = build_parser()
    args = parser.parse_args(argv)
    given = parser.given_flags(argv)
    run_name = "" if "output_dir" in given else _run_name(argv, args.dataset_file)
    return run_command("main.py", lambda: main(args, given, run_name))


def _run_name(argv: Sequence[str] | None, dataset_file: str) -> str:
    """The stem of the last ``@configs/NAME.txt`` on a command line, else the data set."""
    configs = [word[1:] for word in (sys.argv[1:] if argv is None else argv) if word[:1] == "@"]
    return Path(configs[-1]).stem if configs else dataset_file


if __name__ == "__main__":
    exit_process(exit_status_of(run))
