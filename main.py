"""Train and evaluate DETR: ``python main.py --help``."""

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from training import Run
from util.command_line import ArgumentParser, FlagGroup, run_command
from util.determinism import explained_refusals, make_deterministic
from util.distributed import connected, get_rank, leave
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
    add("--lr_min", "learning rate at the end of a cosine schedule", type=float)
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
    add("--output_dir", "folder for checkpoints and logs; nothing is written without", default="")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", "cuda or cpu", default=device)
    add("--seed", "seed of weights, augmentation and order", default=42, type=int)
    group.add_switch("--deterministic", "the same bits on a GPU too; slower")
    add("--resume", "checkpoint file or address to continue or evaluate", default="")
    group.add_switch("--auto_resume", "continue from the newest checkpoint in --output_dir, if any")
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


def main(args: argparse.Namespace, given: Collection[str] = ()) -> None:
    """Train or evaluate as the flags say.

    Args:
        args: all flags.
        given: names of those that were given, and not left at their default: some win over the
            checkpoint of a resumed run.

    Raises:
        UserError: a mistake in flags, files or data.
        DivergenceError: training has diverged.
        ConnectionLostError: another process is gone or stuck.
    """
    fill_in_new_flags(args)
    check_flags(args)
    with connected(args), explained_refusals():
        if args.deterministic:
            make_deterministic()
        check_device(args.device)
        print(f"git:\n  {get_sha()}\n")
        print(args)
        seed_everything(args.seed + get_rank())
        run = Run(args, given)
        if args.eval:
            run.score()
        else:
            run.train()


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
    if args.seed >= 2**31:
        raise UserError(f"--seed {args.seed}: must be below {2**31}")
    if args.ema_decay >= 1:
        raise UserError(f"--ema_decay {args.ema_decay}: must be below 1")
    for name in ("dropout", "panoptic_threshold", "crop_prob"):
        if getattr(args, name) > 1:
            raise UserError(f"--{name} {getattr(args, name)}: is a probability, at most 1")
    if args.dump_detections and not Path(args.dump_detections).absolute().parent.is_dir():
        raise UserError(f"--dump_detections {args.dump_detections}: its folder does not exist")
    if args.dump_detections and Path(args.dump_detections).is_dir():
        raise UserError(f"--dump_detections {args.dump_detections}: is a folder, give a file")
    if args.hidden_dim % args.nheads or args.hidden_dim % 4:
        raise UserError(
            f"--hidden_dim {args.hidden_dim}: must be a multiple of 4 and of --nheads {args.nheads}"
        )
    if args.resume and args.finetune:
        raise UserError(
            "--resume continues a run and --finetune starts a new one: give one of them"
        )
    if (args.auto_resume or args.save_every) and not args.output_dir:
        raise UserError("--auto_resume and --save_every need --output_dir")
    if args.masks and args.hidden_dim < 16:
        raise UserError(f"--hidden_dim {args.hidden_dim}: --masks needs at least 16")
    if args.panoptic_threshold != NEW_FLAG_DEFAULTS["panoptic_threshold"] and not args.masks:
        raise UserError("--panoptic_threshold is about panoptic maps: it needs --masks")
    if args.frozen_weights and not args.masks:
        raise UserError("--frozen_weights trains a mask head on fixed weights: it needs --masks")
    if args.eval and not (args.resume or args.auto_resume):
        print("--eval without --resume: this evaluates random weights")


def check_device(name: str) -> None:
    """Refuse a device that is not there; after each process has been given its own.

    Raises:
        UserError: names the device and why it cannot be used.
    """
    try:
        torch.empty(1, device=name).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as err:
        reason = str(err).splitlines()[0]
        raise UserError(f"--device {name}: {reason}; --device cpu works everywhere") from err


def build_parser() -> ArgumentParser:
    """The parser of the command line, with ``--help`` and argument files."""
    return ArgumentParser(
        "main.py",
        description="Train and evaluate DETR. Flags may stand in a file: @configs/NAME.txt",
        parents=[get_args_parser()],
        fromfile_prefix_chars="@",
    )


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status, see `util.command_line.run_command`."""
    parser = build_parser()
    args = parser.parse_args(argv)
    return run_command("main.py", lambda: main(args, parser.given_flags(argv)))


if __name__ == "__main__":
    leave(run())
