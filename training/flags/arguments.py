"""All command-line flags of main.py. Only `default_device` imports PyTorch."""

import argparse
import functools

from datasets.formats.flags import add_format_flags
from util.cli.command_line import FlagGroup
from util.options import AMP_CHOICES, AMP_HELP

EOS_COEF = 0.1  # default of --eos_coef


@functools.cache
def flag_actions() -> dict[str, argparse.Action]:
    """Argparse actions by flag name, for example to validate values from a checkpoint."""
    return {action.dest: action for action in get_args_parser()._actions}


def get_args_parser(device: str | None = None) -> argparse.ArgumentParser:
    """Parser with all flags but without ``--help``, to be used as a parent parser.

    Args:
        device: default of ``--device``; None: ``cuda`` if available, else ``cpu`` (this imports
            PyTorch).
    """
    parser = argparse.ArgumentParser("Set transformer detector", add_help=False)
    _add_training_flags(FlagGroup(parser, "training"))
    _add_model_flags(FlagGroup(parser, "model"))
    _add_loss_flags(FlagGroup(parser, "matching and loss"))
    _add_data_flags(FlagGroup(parser, "data"))
    _add_run_flags(FlagGroup(parser, "run"), default_device() if device is None else device)
    return parser


def _add_training_flags(group: FlagGroup) -> None:
    add, add_switch = group.add, group.add_switch
    add("--lr", "learning rate of all layers except the backbone", default=1e-4, type=float)
    backbone = "learning rate of the backbone and of learned position embeddings; 0: not trained"
    add("--lr_backbone", backbone, default=1e-5, type=float)
    add("--batch_size", "batch size per process", default=2, type=int)
    add("--accum_steps", "gradient accumulation: batches per optimizer step, per process", type=int)
    add("--optimizer", "optimizer", choices=["adamw", "adam", "sgd"])
    add("--momentum", "momentum of --optimizer sgd (default: 0.9)", type=float)
    add("--weight_decay", "weight decay of the optimizer", default=1e-4, type=float)
    add("--epochs", "number of training epochs", default=300, type=int)
    frozen = "keep the backbone frozen for the first N epochs"
    add("--freeze_backbone_epochs", frozen, type=int, metavar="N")
    frozen_size = "batch size per process while the backbone is frozen (default: --batch_size)"
    add("--freeze_batch_size", frozen_size, type=int)
    _add_schedule_flags(group)
    add("--clip_max_norm", "clip the gradient norm to this value; 0: off", default=0.1, type=float)
    add("--amp", AMP_HELP, choices=AMP_CHOICES)
    add_switch("--compile", "compile backbone and transformer with torch.compile for training")
    add_switch("--tf32", "NVIDIA GPUs: compute float32 matrix products in TF32 (10-bit mantissa)")
    recompute = "recompute activations in the backward pass: less memory, slower, same gradients"
    add_switch("--activation_checkpointing", recompute)
    skipped = "skip up to this many steps with a non-finite loss or gradient before aborting"
    add("--max_skipped_steps", skipped, type=int)
    ema = "decay of the exponential moving average (EMA) of the weights, e.g. 0.9998; 0: off"
    add("--ema_decay", ema, type=float)
    every = "evaluate every N epochs, and after the last epoch"
    add("--eval_every", every, type=int, metavar="N")
    patience = (
        "early stopping: stop after N evaluations without a better score, but not while the "
        "best score is printed as 0.000 (default: off)"
    )
    add("--patience", patience, type=int, metavar="N")


def _add_schedule_flags(group: FlagGroup) -> None:
    add = group.add
    drop = "step schedule: divide the learning rate by 10 every N epochs"
    drop += "; with any schedule, a copy of the checkpoint is kept every N and every 100 epochs"
    add("--lr_drop", drop, default=200, type=int, metavar="N")
    add(
        "--lr_scheduler",
        "learning-rate schedule: step (see --lr_drop) or cosine (see --lr_min, --lr_min_ratio)",
        choices=["step", "cosine"],
    )
    add(
        "--lr_min",
        "final learning rate of the cosine schedule; parameter groups that start at this rate or "
        "below keep their rate",
        type=float,
    )
    ratio = (
        "final rate of the cosine schedule, as a fraction of the initial learning rate (e.g. 0.01)"
    )
    add("--lr_min_ratio", ratio, type=float)
    add("--warmup_steps", "number of optimizer steps of linear learning-rate warm-up", type=int)
    group.add_switch(
        "--lr_scale_batch",
        "multiply learning rates by (images per optimizer step) / 16; 16 is the published setting",
        off="--no_lr_scale_batch",
    )


def _add_model_flags(group: FlagGroup) -> None:
    add, add_switch = group.add, group.add_switch
    add_switch("--masks", "also train and predict masks (segmentation)")
    add("--frozen_weights", "checkpoint of a detector to freeze; needs --masks", type=str)
    name = "name of a torchvision ResNet, ResNeXt or wide ResNet, such as resnet101"
    add("--backbone", f"backbone: {name}", default="resnet50", type=str)
    add("--backbone_weights", "initial weights of the backbone: imagenet, none (random) or a file")
    norms = "frozen: FrozenBatchNorm2d; batch: BatchNorm2d, and all backbone stages are trained"
    add("--backbone_norm", norms, choices=["frozen", "batch"])
    dc5 = "DC5: dilation instead of stride in the last backbone stage"
    add_switch("--dilation", dc5, off="--no_dilation")
    choices = ("sine", "learned")
    add("--position_embedding", "positional encoding", default="sine", type=str, choices=choices)
    add("--enc_layers", "number of encoder layers", default=6, type=int)
    add("--dec_layers", "number of decoder layers", default=6, type=int)
    add("--dim_feedforward", "feed-forward dimension of the transformer", default=2048, type=int)
    add("--hidden_dim", "embedding dimension of the transformer", default=256, type=int)
    add("--dropout", "dropout rate of the transformer", default=0.1, type=float)
    add("--nheads", "number of attention heads; must divide --hidden_dim", default=8, type=int)
    queries = "number of object queries, which limits the detections per image"
    add("--num_queries", queries, default=100, type=int)
    designs = "learned: embeddings (DETR); anchor: boxes that each layer refines (DAB-DETR)"
    add("--query_design", f"query type. {designs}", choices=["learned", "anchor"])
    groups = "number of denoising groups in training (DN-DETR); needs --query_design anchor"
    add("--denoising", groups, type=int)
    add(
        "--overlap_penalty",
        "penalty for overlapping queries: the logits of a query are reduced by this value times "
        "the square of its largest IoU with a higher-scoring query of the same class; needs "
        "--query_design anchor and --cls_loss focal",
        type=float,
    )
    add_switch("--pre_norm", "pre-norm transformer: layer norm before attention and FFN")
    classes = "rows of the class head without no-object; must be above the largest category id"
    add("--num_classes", f"{classes} (default: inferred from the data)", type=int)


def _add_loss_flags(group: FlagGroup) -> None:
    add = group.add
    group.add_switch(
        "--no_aux_loss",
        "disable auxiliary decoding losses",
        off="--aux_loss",
        action="store_false",
        dest="aux_loss",
        default=True,
    )
    cost = "matching: weight of the class cost (probability, or focal cost with --cls_loss focal)"
    add("--set_cost_class", cost, default=1, type=float)
    add("--set_cost_bbox", "matching: weight of the L1 box cost", default=5, type=float)
    add("--set_cost_giou", "matching: weight of the generalized-IoU cost", default=2, type=float)
    add("--mask_loss_coef", "loss: weight of the focal mask loss", default=1, type=float)
    add("--dice_loss_coef", "loss: weight of the dice mask loss", default=1, type=float)
    add("--bbox_loss_coef", "loss: weight of the L1 box loss", default=5, type=float)
    add("--giou_loss_coef", "loss: weight of the generalized-IoU loss", default=2, type=float)
    scores = "classification loss. ce: softmax cross-entropy; focal: sigmoid focal loss"
    add("--cls_loss", scores, choices=["ce", "focal"])
    add("--cls_loss_coef", "loss: weight of the classification loss", type=float)
    alpha = "focal loss: weight of positive targets; negatives get 1 - alpha (default: 0.25)"
    add("--focal_alpha", alpha, type=float)
    quality = "focal loss: soft targets computed from the IoU, so that scores reflect box quality"
    group.add_switch("--iou_targets", quality, off="--no_iou_targets")
    add("--eos_coef", "loss: weight of the no-object class", default=EOS_COEF, type=float)


def _add_data_flags(group: FlagGroup) -> None:
    add, add_switch = group.add, group.add_switch
    add_format_flags(group)
    kinds = "coco, coco_panoptic, voc, yolo, or shapes, shapes_panoptic (synthetic)"
    add("--dataset_file", f"dataset: {kinds}", default="coco")
    add("--coco_path", "COCO directory: train2017/, val2017/, annotations/", type=str)
    panoptic = "COCO panoptic directory: panoptic_val2017/, …, annotations/"
    add("--coco_panoptic_path", panoptic, type=str)
    add_switch("--remove_difficult", "no effect; accepted for old command lines")
    add("--train_images", "folder of training images")
    add("--train_ann", "COCO annotation file of the training images")
    add("--val_images", "folder of validation images")
    add("--val_ann", "COCO annotation file of the validation images")
    scales = "short sides in pixels; training picks one at random, evaluation uses the largest"
    add("--scales", f"{scales} (default: 480, 512, … 800)", type=int, nargs="+")
    add("--max_size", "long side of images: at most about this many pixels", type=int)
    of_channel = {"type": float, "nargs": 3, "metavar": ("R", "G", "B")}
    add("--image_mean", "per-channel mean, subtracted from images in [0, 1]", **of_channel)
    std = "per-channel standard deviation; images are divided by it after subtracting the mean"
    add("--image_std", std, **of_channel)
    add("--crop_prob", "probability of cropping a training image", type=float)
    flip = "probability of mirroring training images; use 0 if left and right are different classes"
    add("--flip_prob", flip, type=float)
    kernels = "library that resizes images; torch: faster, some 8-bit values differ by 1, rarely 2"
    add("--resize", kernels, choices=["pillow", "torch"])
    similar = "put images of similar aspect ratio into the same batch: less padding"
    add_switch("--group_aspect", similar, off="--no_group_aspect")
    bad_images = "replace up to N unreadable images with other images instead of aborting"
    add("--skip_bad_images", bad_images, type=int, metavar="N")
    add_switch(
        "--skip_checks",
        "warn instead of stopping if class names, box formats, number of objects, image sizes or "
        "flags and data of the ranks are wrong; also allow an --output_dir that another run uses",
    )
    add("--num_workers", "DataLoader workers per process", default=2, type=int)


def _add_run_flags(group: FlagGroup, device: str) -> None:
    add = group.add
    folder = 'output folder; "": none (default: training creates outputs/NAME-N, named after the '
    add("--output_dir", f"{folder}config file or the data)", default="")
    add("--device", "cuda or cpu (default: cuda if there is a GPU)", default=device)
    add("--seed", "random seed of the run", default=42, type=int)
    deterministic = "use deterministic algorithms (slower)"
    group.add_switch("--deterministic", deterministic, off="--no_deterministic")
    add("--resume", "checkpoint (file or URL) to continue from or to evaluate", default="")
    newest = "continue from the newest checkpoint in --output_dir; without one, start a new run"
    group.add_switch("--auto_resume", newest)
    group.add_switch(
        "--overwrite", "start over in a used --output_dir; old files are moved to earlier-N/"
    )
    every = "save a checkpoint every N optimizer steps; 0: only after each epoch"
    add("--save_every", every, type=int, metavar="N")
    recent = "most recent checkpoints to keep, besides best.pth and the copies of --lr_drop"
    add("--keep_last", recent, type=int)
    initial = "checkpoint (file or URL) with initial weights for a new run; the number of classes"
    add("--finetune", f"{initial} and queries may differ")
    first = "number of the first epoch of a new run"
    add("--start_epoch", first, default=0, type=int)
    group.add_switch("--eval", "evaluate the checkpoint of --resume, without training")
    segments = "minimum score of panoptic segments (default: 0.85, or 0.35 with --cls_loss focal)"
    add("--panoptic_threshold", segments, type=float)
    add("--eval_batch_size", "evaluation batch size per process (default: --batch_size)", type=int)
    dump = "write the detections of the last evaluation to this file (COCO results JSON)"
    add("--dump_detections", dump)
    styles = "short: progress bar and tables; full: log lines; auto: short in a terminal, else full"
    add("--log_style", styles, choices=["auto", "short", "full"])
    board = "also write scalars and sample detections to tensorboard/ in --output_dir"
    group.add_switch("--tensorboard", board)
    add("--world_size", "not needed: set from the launcher's environment", default=1, type=int)
    url = "rendezvous URL, as init_method of torch.distributed (env://, tcp://…, file://…)"
    add("--dist_url", url, default="env://")
    add("--dist_timeout", "timeout of collectives, in seconds", type=int)


def default_device() -> str:
    """``cuda`` if there is a GPU, else ``cpu``. Imports PyTorch."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
