"""The network of a run: built as flags and data say, given its weights, the same on all ranks."""

import argparse
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models import build_model
from models.backbone import BODY, load_resnet_weights
from models.coco_categories import default_num_classes
from models.criterion import SetCriterion
from models.fast.convolution import use_small_map_convolutions
from models.segmentation import DETRsegm
from models.weights import (
    finetune_model,
    has_backbone_of,
    load_frozen_weights,
    load_model_state,
    model_state,
    num_classes_in_head,
    report_better_average,
    without_ddp_prefix,
)
from training.resume import Start
from util.distributed.agreement import fingerprint, require_same
from util.distributed.gathering import broadcast_tensors
from util.errors import UserError
from util.optimizer import batch_norms

# Flags that each rank may have its own values of, and paths, which may differ between machines.
_OF_A_RANK = frozenset({"rank", "gpu", "device", "num_workers", "dist_url", "dist_timeout"})
_PATHS = frozenset(
    {
        *("coco_path", "coco_panoptic_path", "train_images", "train_ann", "val_images", "val_ann"),
        *("resume", "finetune", "frozen_weights", "backbone_weights"),
        *("output_dir", "dump_detections"),
    }
)
_WAY_OUT = "give every rank the same flags, and every machine the same files"


def build_network(
    args: argparse.Namespace, is_thing: Mapping[int, bool] | None
) -> tuple[nn.Module, SetCriterion, dict[str, nn.Module]]:
    """Model, criterion and post-processors, on their device.

    Args:
        args: all flags.
        is_thing: of panoptic data: whether each category id is a thing; COCO's rule holds for
            other ids.
    """
    model, criterion, postprocessors = build_model(args)
    panoptic: Any = postprocessors.get("panoptic")
    if panoptic is not None:
        panoptic.is_thing_map.update(is_thing or {})
        panoptic.return_scores = True  # for the pictures
    model.to(torch.device(args.device))
    if args.amp != "off":
        prepare_for_mixed_precision(model)
    return model, criterion, postprocessors


def prepare_for_mixed_precision(model: nn.Module) -> None:
    """Give convolutions what makes them quick in mixed precision, in place.

    Args:
        model: on its device.
    """
    # The layout that low-precision kernels work in.
    nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)
    if next(model.parameters()).device.type == "cpu":
        use_small_map_convolutions(model)


def load_weights(model: nn.Module, args: argparse.Namespace, start: Start) -> None:
    """Load the weights of ``--resume``, else of ``--finetune`` and ``--frozen_weights``.

    Args:
        model: random, or with a pretrained backbone.
        args: all flags.
        start: the checkpoints that the flags name.

    Raises:
        UserError: weights do not fit.
    """
    if start.finetune is not None:
        _finetune(model, start.finetune, args)
    if start.frozen is not None:
        assert isinstance(model, DETRsegm)  # check_flags has seen to it
        state = model_state(start.frozen, args.frozen_weights)
        load_frozen_weights(model, model.detr, state, args.frozen_weights)
    if start.resume is not None:
        load_model_state(model, model_state(start.resume, args.resume), args.resume)
        if args.eval and not args.ema_decay:
            report_better_average(start.resume, args.resume, "--ema_decay 0.9998 scores both")


def _finetune(model: nn.Module, checkpoint: dict[str, Any], args: argparse.Namespace) -> None:
    """Load what fits; a backbone that does not fit whole comes from ``--backbone_weights``."""
    way_out = "write them to a file with python -m export.weights --ema"
    report_better_average(checkpoint, args.finetune, way_out)
    state = without_ddp_prefix(model_state(checkpoint, args.finetune))
    brings_backbone = has_backbone_of(model, state)
    if not brings_backbone:
        state = {key: value for key, value in state.items() if BODY not in key}
        print(
            f"{args.finetune} has another backbone than --backbone {args.backbone}: the backbone "
            f"starts from --backbone_weights {args.backbone_weights}"
        )
    print(finetune_model(model, state))
    if not brings_backbone:
        resnet: Any = model.get_submodule(("detr." if args.masks else "") + BODY.removesuffix("."))
        load_resnet_weights(resnet, args.backbone, args.backbone_weights)


def take_num_classes(
    args: argparse.Namespace, flag: str, path: str, checkpoint: dict[str, Any] | None
) -> None:
    """The head in the checkpoint that ``flag`` names decides on the number of classes."""
    if checkpoint is None:
        return
    state = model_state(checkpoint, path)
    found = num_classes_in_head(state, f"{flag} {path}")
    if args.num_classes not in (None, found):
        raise UserError(
            f"--num_classes {args.num_classes}: the head in {path} has {found} classes; "
            f"to start from its other weights give --finetune {path} instead of {flag}"
        )
    args.num_classes = found


def count_classes(args: argparse.Namespace, *datasets: Any) -> int:
    """How many classes a model for some data sets, or None in their place, needs."""
    largest_id = max(dataset.largest_category_id for dataset in datasets if dataset is not None)
    return default_num_classes(args.dataset_file, largest_id)


def require_same_flags(args: argparse.Namespace) -> None:
    """Refuse flags that differ between ranks; of paths, only whether they are given. Collective.

    Raises:
        UserError: names the flag and its values.
    """
    facts = {
        f"--{name}": ("given" if value else "not given") if name in _PATHS else value
        for name, value in sorted(vars(args).items())
        if name not in _OF_A_RANK
    }
    require_same(facts, _WAY_OUT)


def require_same_data(**splits: Any) -> None:
    """Refuse data sets whose images or classes differ between ranks. Collective.

    Args:
        splits: data set, or None, by name.

    Raises:
        UserError: names the split.
    """
    facts = {}
    for name, data in splits.items():
        if data is not None:
            names = ("ids", "categories", "is_thing")
            content = [getattr(data, name, None) for name in names]
            facts[f"{name} data"] = f"{len(data)} images (hash {fingerprint(content)})"
    require_same(facts, _WAY_OUT)


def distribute(model: nn.Module, args: argparse.Namespace) -> nn.Module:
    """The model wrapped for training by several processes; unchanged in a single process.

    All ranks start from the parameters and buffers of rank 0. DistributedDataParallel alone would
    send no buffers where ``broadcast_buffers`` is off, and frozen batch norms are buffers.

    Every parameter gets a gradient in every step, be it zero: nobody has to search for others.
    """
    if not args.distributed:
        return model
    broadcast_state(model)
    on_gpu = torch.device(args.device).type == "cuda"
    return DistributedDataParallel(
        model,
        device_ids=[args.gpu] if on_gpu else None,
        broadcast_buffers=bool(batch_norms(model)),
        gradient_as_bucket_view=True,
    )


def broadcast_state(model: nn.Module) -> None:
    """Overwrite all parameters and buffers of a model with the values of rank 0. Collective.

    Raises:
        UserError: ranks have built different models.
    """
    tensors = [*model.parameters(), *model.buffers()]
    numbers = sum(tensor.numel() for tensor in tensors)
    trained = sum(tensor.requires_grad for tensor in tensors)
    described = f"{len(tensors)} tensors, {trained} of them trained, {numbers} values"
    require_same({"model": described}, _WAY_OUT)
    broadcast_tensors(tensors)
