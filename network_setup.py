"""The network of a run: built as flags and data say, and given its weights."""

import argparse
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from datasets.coco import num_classes_for
from models import build_model
from models.convolution import use_small_map_convolutions
from models.criterion import SetCriterion
from models.segmentation import DETRsegm
from util.checkpoint import load_checkpoint
from util.errors import UserError
from util.optimizer import batch_norms
from util.weights import (
    finetune_model,
    load_frozen_weights,
    load_model_state,
    model_state,
    num_classes_of,
)


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


def load_weights(
    model: nn.Module,
    args: argparse.Namespace,
    checkpoint: dict[str, Any] | None,
    frozen: dict[str, Any] | None,
) -> None:
    """Load what the flags name: of a checkpoint all, else of a similar model, or the detector.

    Args:
        model: random, or with a backbone.
        args: all flags.
        checkpoint: of ``--resume``.
        frozen: of ``--frozen_weights``.

    Raises:
        UserError: weights do not fit.
    """
    if args.finetune:
        state = model_state(load_checkpoint(args.finetune), args.finetune)
        print(finetune_model(model, state))
    if frozen is not None:
        assert isinstance(model, DETRsegm)  # check_flags has seen to it
        state = model_state(frozen, args.frozen_weights)
        load_frozen_weights(model, model.detr, state, args.frozen_weights)
    if checkpoint is not None:
        load_model_state(model, model_state(checkpoint, args.resume), args.resume)


def is_frozen_fresh(args: argparse.Namespace) -> bool:
    """Whether the detector of ``--frozen_weights`` has still to be loaded."""
    return bool(args.frozen_weights) and not args.resume


def take_num_classes(
    args: argparse.Namespace, flag: str, path: str, checkpoint: dict[str, Any] | None
) -> None:
    """The head in the checkpoint that ``flag`` names decides on the number of classes."""
    if checkpoint is None:
        return
    state = model_state(checkpoint, path)
    found = num_classes_of(state, f"{flag} {path}")
    if args.num_classes not in (None, found):
        raise UserError(
            f"--num_classes {args.num_classes}: the head in {path} has {found} classes; "
            f"to start from its other weights give --finetune {path} instead of {flag}"
        )
    args.num_classes = found


def count_classes(args: argparse.Namespace, *datasets: Any) -> int:
    """How many classes a model for some data sets, or None in their place, needs."""
    largest_id = max(dataset.largest_category_id for dataset in datasets if dataset is not None)
    return num_classes_for(args.dataset_file, largest_id)


def distribute(model: nn.Module, args: argparse.Namespace) -> nn.Module:
    """The model as several processes train it together; the same in a single one.

    Every parameter gets a gradient in every step, be it zero: nobody has to search for others.
    """
    if not args.distributed:
        return model
    on_gpu = torch.device(args.device).type == "cuda"
    return DistributedDataParallel(
        model,
        device_ids=[args.gpu] if on_gpu else None,
        broadcast_buffers=bool(batch_norms(model)),
        gradient_as_bucket_view=True,
    )
