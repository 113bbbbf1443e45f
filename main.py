"""Train and evaluate DETR: ``python main.py --help``."""

import argparse
import datetime
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from datasets import build_dataset
from datasets.coco import num_classes_for
from datasets.coco_eval import CocoEvaluator
from datasets.eval_explain import explain_missing_ap
from datasets.eval_report import per_class_table, serialisable_eval, write_detections
from datasets.images import read_image
from datasets.loaders import build_train_loader, build_val_loader
from engine import evaluate, train_one_epoch
from models import build_model
from util.checkpoint import finetune_model, load_checkpoint, load_model_state, model_state
from util.command_line import ArgumentParser, FlagGroup, run_command
from util.distributed import get_rank, init_distributed_mode, is_main_process
from util.errors import UserError
from util.optimizer import build_lr_scheduler, build_optimizer
from util.options import fill_in_new_flags
from util.provenance import get_sha
from util.run_folder import RunFolder
from util.visualize import save_detection_samples

_AT_LEAST_ONE = (
    *("batch_size", "eval_batch_size", "epochs", "lr_drop", "max_size", "num_classes"),
    *("dec_layers", "hidden_dim", "nheads", "num_queries", "dim_feedforward"),
)
_NOT_NEGATIVE = (
    *("lr", "lr_backbone", "lr_min", "weight_decay", "clip_max_norm", "dropout", "enc_layers"),
    *("eos_coef", "num_workers", "seed", "start_epoch"),
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
    add("--weight_decay", "weight decay of AdamW", default=1e-4, type=float)
    add("--epochs", "number of epochs to train", default=300, type=int)
    add("--lr_drop", "epochs between drops of the learning rate by 10", default=200, type=int)
    add("--lr_scheduler", "step by --lr_drop, or cosine to --lr_min", choices=["step", "cosine"])
    add("--lr_min", "learning rate at the end of a cosine schedule", type=float)
    add("--clip_max_norm", "largest gradient norm, 0 for no limit", default=0.1, type=float)
    add("--amp", "bf16 runs the model in mixed precision", choices=["off", "bf16"])


def _add_model_flags(group: FlagGroup) -> None:
    add, add_switch = group.add, group.add_switch
    add("--frozen_weights", "box checkpoint whose weights stay fixed; needs --masks", type=str)
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
    add("--dataset_file", "kind of data: coco or shapes (drawn, no download)", default="coco")
    add("--coco_path", "COCO directory: train2017/, val2017/, annotations/", type=str)
    add("--coco_panoptic_path", "directory of the COCO panoptic annotations", type=str)
    add_switch("--remove_difficult", "kept from the original; COCO data has no such mark")
    add("--train_images", "folder of the training images, wherever it is")
    add("--train_ann", "COCO annotation file of the training images")
    add("--val_images", "folder of the validation images")
    add("--val_ann", "COCO annotation file of the validation images")
    add("--scales", "short sides of training images; evaluation: the largest", type=int, nargs="+")
    add("--max_size", "largest long side of an image", type=int)
    add("--num_workers", "processes that load data, for each training process", default=2, type=int)


def _add_run_flags(group: FlagGroup) -> None:
    add = group.add
    group.add_switch("--masks", "train the mask head for segmentation too")
    add("--output_dir", "folder for checkpoints and logs; nothing is written without", default="")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", "cuda or cpu", default=device)
    add("--seed", "seed of weights, augmentation and order", default=42, type=int)
    add("--resume", "checkpoint file or address to continue or evaluate", default="")
    add("--finetune", "checkpoint to start from; classes and queries may differ in number")
    add("--start_epoch", "number of the first epoch", default=0, type=int)
    group.add_switch("--eval", "evaluate the model of --resume and end")
    add("--eval_batch_size", "images in a batch of evaluation (default: --batch_size)", type=int)
    add("--dump_detections", "file for the detections of the last evaluation (COCO results JSON)")
    add("--world_size", "number of processes, set by the launcher", default=1, type=int)
    add("--dist_url", "how processes find each other", default="env://")


def main(args: argparse.Namespace) -> None:
    """Train or evaluate as the flags say.

    Raises:
        UserError: a mistake in flags, files or data.
        DivergenceError: training has diverged.
    """
    fill_in_new_flags(args)
    check_flags(args)
    init_distributed_mode(args)
    check_device(args.device)
    print(f"git:\n  {get_sha()}\n")
    print(args)
    _seed_everything(args.seed + get_rank())
    run = _Run(args)
    if args.eval:
        run.score()
    else:
        run.train()


class _Run:
    """Data, model and optimizer of a run, restored from a checkpoint where one is given."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.device = torch.device(args.device)
        self.folder = RunFolder(args.output_dir)
        checkpoint = load_checkpoint(args.resume) if args.resume else None
        if checkpoint is not None:
            _take_num_classes(args, checkpoint)
        self.val_set: Any = build_dataset("val", args)
        self.train_set: Any = None if args.eval else build_dataset("train", args)
        if args.num_classes is None:
            args.num_classes = _count_classes(args, self.val_set, self.train_set)
        self.model, self.criterion, self.postprocessors = build_model(args)
        self.model.to(self.device)
        if args.amp != "off":
            # The layout that low-precision convolutions work in.
            nn.utils.convert_conv2d_weight_memory_format(self.model, torch.channels_last)
        self.num_parameters = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        print("number of params:", self.num_parameters)
        self.optimizer = build_optimizer(self.model, args.lr, args.lr_backbone, args.weight_decay)
        self.lr_scheduler = build_lr_scheduler(
            self.optimizer, args.lr_scheduler, args.epochs, args.lr_drop, args.lr_min
        )
        self._load_weights(checkpoint)
        self.parallel_model = _distribute(self.model, args)
        self.val_loader = build_val_loader(
            self.val_set,
            args.eval_batch_size or args.batch_size,
            args.num_workers,
            pin_memory=self.device.type == "cuda",
        )

    def _load_weights(self, checkpoint: dict[str, Any] | None) -> None:
        args = self.args
        if args.finetune:
            state = model_state(load_checkpoint(args.finetune), args.finetune)
            print(finetune_model(self.model, state))
        if checkpoint is None:
            return
        load_model_state(self.model, model_state(checkpoint, args.resume), args.resume)
        if args.eval:
            return
        if not all(k in checkpoint for k in ("optimizer", "lr_scheduler", "epoch")):
            print(f"{args.resume} holds weights alone: training starts at epoch {args.start_epoch}")
            return
        try:
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            self.lr_scheduler.load_state_dict(checkpoint["lr_scheduler"])
        except (ValueError, KeyError) as err:
            raise UserError(
                f"--resume {args.resume}: its optimizer trains other parameters; give the same "
                f"--lr_backbone and --backbone_norm, or --finetune {args.resume}"
            ) from err
        args.start_epoch = checkpoint["epoch"] + 1
        rates = ", ".join(f"{group['lr']:g}" for group in self.optimizer.param_groups)
        print(
            f"Resuming with epoch {args.start_epoch}; learning rates ({rates}), their schedule and "
            "weight decay are those of the checkpoint, not of the command line"
        )

    def score(self) -> None:
        """Evaluate once, for ``--eval``."""
        _, evaluator = self._evaluate()
        self.folder.save_evaluation(serialisable_eval(evaluator.coco_eval["bbox"].eval))

    def train(self) -> None:
        """Train to the last epoch, evaluating after each."""
        args = self.args
        sampler, loader = build_train_loader(
            self.train_set, args.batch_size, args.num_workers, pin_memory=self.device.type == "cuda"
        )
        print("Start training")
        if args.start_epoch >= args.epochs:
            print(f"Nothing left to do: epoch {args.start_epoch} of --epochs {args.epochs} is done")
        started = time.monotonic()
        for epoch in range(args.start_epoch, args.epochs):
            if isinstance(sampler, DistributedSampler):
                sampler.set_epoch(epoch)
            train_stats = train_one_epoch(
                self.parallel_model,
                self.criterion,
                loader,
                self.optimizer,
                self.device,
                epoch,
                args.clip_max_norm,
                args.amp,
            )
            self.lr_scheduler.step()
            self.folder.save_checkpoint(self._state(epoch), epoch, args.lr_drop)
            test_stats, evaluator = self._evaluate()
            self.folder.append_log(
                {
                    **{f"train_{name}": value for name, value in train_stats.items()},
                    **{f"test_{name}": value for name, value in test_stats.items()},
                    "epoch": epoch,
                    "n_parameters": self.num_parameters,
                }
            )
            evaluation = serialisable_eval(evaluator.coco_eval["bbox"].eval)
            self.folder.save_epoch_evaluation(evaluation, epoch)
        print("Training time", datetime.timedelta(seconds=int(time.monotonic() - started)))

    def _state(self, epoch: int) -> dict[str, Any]:
        """What a checkpoint holds. A plain dict of flags, so that it loads without trust."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "epoch": epoch,
            "args": vars(self.args),
            "categories": self.val_set.categories,
        }

    def _evaluate(self) -> tuple[dict[str, Any], CocoEvaluator]:
        """Evaluate, and report in words, in pictures and as a file where asked for."""
        stats, evaluator = evaluate(
            self.parallel_model,
            self.criterion,
            self.postprocessors,
            self.val_loader,
            self.val_set.coco,
            self.device,
            self.args.output_dir,
            self.args.amp,
        )
        print(per_class_table(evaluator.coco_eval["bbox"], self.val_set.categories))
        for reason in explain_missing_ap(evaluator):
            print(reason)
        if is_main_process():
            self._write_detections(evaluator)
        return stats, evaluator

    def _write_detections(self, evaluator: CocoEvaluator) -> None:
        detections = evaluator.detections("bbox")
        if self.args.dump_detections:
            write_detections(detections, self.args.dump_detections)
        if self.folder.path is not None:
            picture = self.folder.path / "detections.png"
            save_detection_samples(
                self.val_set.coco,
                detections,
                self.val_set.root,
                picture,
                read_image=read_image,
            )
            print(f"Detections beside ground truth: {picture}")


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
    if args.dropout > 1:
        raise UserError(f"--dropout {args.dropout}: is a probability, at most 1")
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
    if args.frozen_weights and not args.masks:
        raise UserError("--frozen_weights trains a mask head on fixed weights: it needs --masks")
    if args.eval and not args.resume:
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


def _seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def _take_num_classes(args: argparse.Namespace, checkpoint: dict[str, Any]) -> None:
    """The head in the checkpoint decides on the number of classes."""
    state = model_state(checkpoint, args.resume)
    heads = [len(v) - 1 for k, v in state.items() if k.endswith("class_embed.bias")]
    if not heads:
        raise UserError(f"--resume {args.resume}: holds no DETR model (no class_embed)")
    if args.num_classes not in (None, heads[0]):
        raise UserError(
            f"--num_classes {args.num_classes}: the head in {args.resume} has {heads[0]} classes; "
            f"to start from its other weights give --finetune {args.resume} instead of --resume"
        )
    args.num_classes = heads[0]


def _count_classes(args: argparse.Namespace, *datasets: Any) -> int:
    largest_id = max(dataset.largest_category_id for dataset in datasets if dataset is not None)
    return num_classes_for(args.dataset_file, largest_id)


def _distribute(model: nn.Module, args: argparse.Namespace) -> nn.Module:
    if not args.distributed:
        return model
    on_gpu = torch.device(args.device).type == "cuda"
    return DistributedDataParallel(model, device_ids=[args.gpu] if on_gpu else None)


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status, see `util.command_line.run_command`."""
    parser = ArgumentParser(
        "main.py",
        description="Train and evaluate DETR. Flags may stand in a file: @configs/NAME.txt",
        parents=[get_args_parser()],
        fromfile_prefix_chars="@",
    )
    args = parser.parse_args(argv)
    return run_command("main.py", lambda: main(args))


if __name__ == "__main__":
    sys.exit(run())
