"""Model, criterion and post-processors of a run, with the same weights on all ranks."""

import argparse
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models import build_model
from models.criterion import SetCriterion
from models.fast.convolution import use_small_map_convolutions
from models.fast.dropout import use_fast_dropout
from models.fast.folded_norm import fold_frozen_norms
from models.fast.onednn_linear import is_onednn_faster, use_onednn_linears
from models.fast.recomputation import recompute_activations
from models.postprocess import category_id_tensor
from training.compilation import compile_parts
from util.batch_norms import batch_norms
from util.category_ids import CategoryIds
from util.distributed.agreement import require_same
from util.distributed.gathering import broadcast_tensors
from util.distributed.processes import is_dist_avail_and_initialized
from util.system.devices import use_tf32


def build_network(
    args: argparse.Namespace,
    is_thing: Mapping[int, bool] | None,
    category_ids: CategoryIds | None = None,
) -> tuple[nn.Module, SetCriterion, dict[str, nn.Module]]:
    """Model, criterion and post-processors, on their device.

    Args:
        is_thing: thing flags by category id from the panoptic annotation file; other ids follow
            COCO (up to 90: things).
        category_ids: category ids of the rows of the classification head; None: row numbers.

    Raises:
        ValueError: if a post-processor cannot convert rows of the head to category ids.
        UserError: if ``--tf32`` is given and the GPU does not support it.
    """
    model, criterion, postprocessors = build_model(args)
    panoptic: Any = postprocessors.get("panoptic")
    if panoptic is not None:
        panoptic.is_thing_map.update(is_thing or {})
        panoptic.return_scores = True  # drawn in panoptic.png
    if category_ids is not None and not category_ids.are_rows:
        _use_category_ids(postprocessors, category_ids)
    for module in (model, *postprocessors.values()):
        module.to(torch.device(args.device))
    prepare_for_training(model, args.amp)
    if args.tf32:
        use_tf32(torch.device(args.device))
    if args.activation_checkpointing:
        recompute_activations(model)
    if args.compile:
        compile_parts(model)
    return model, criterion, postprocessors


def _use_category_ids(postprocessors: Mapping[str, nn.Module], category_ids: CategoryIds) -> None:
    for kind in ("bbox", "panoptic"):
        postprocessor: Any = postprocessors.get(kind)
        if postprocessor is None:
            continue
        if not hasattr(postprocessor, "category_ids"):
            raise ValueError(
                f"the post-processor {type(postprocessor).__name__} must have an attribute "
                "category_ids, the category id of each row of the classification head"
            )
        postprocessor.category_ids = category_id_tensor(category_ids.user_ids)


def num_trainable(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def prepare_for_training(model: nn.Module, amp: str) -> None:
    """Switch to faster kernels, in place.

    Parameters and their names do not change. Results change by rounding only, except that dropout
    masks differ on a CPU in mixed precision, because of a faster generator. Frozen batch norms are
    folded into the preceding convolutions. Convolutions get channels-last weights, which makes
    their feature maps channels-last too; on a GPU only in mixed precision. On CPUs convolutions
    with small outputs become matrix products in mixed precision, and on AMD processors without
    AVX-512 also in float32 (`SmallMapConv2d`). On AMD processors float32 linear layers run through
    oneDNN.

    Args:
        model: model, on its device.
        amp: see `engine.train_one_epoch`.
    """
    is_on_cpu = next(model.parameters()).device.type == "cpu"
    fold_frozen_norms(model)
    if is_on_cpu:
        use_small_map_convolutions(model)
        use_fast_dropout(model)
    if is_on_cpu and is_onednn_faster():
        use_onednn_linears(model)
    if is_on_cpu or amp != "off":
        nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)


def distribute(model: nn.Module) -> nn.Module:
    """Wrap the model in DistributedDataParallel, if processes are connected. Collective.

    Parameters and buffers are first overwritten with the values of rank 0: with
    ``broadcast_buffers`` off, DDP does not broadcast buffers; frozen batch norms have only buffers.

    ``find_unused_parameters`` is off, so every trained parameter must receive a gradient (possibly
    zero) in every step.

    Args:
        model: model, on its device.
    """
    if not is_dist_avail_and_initialized():
        return model
    _broadcast_state(model)
    device = next(model.parameters()).device
    return DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        broadcast_buffers=bool(batch_norms(model)),
        gradient_as_bucket_view=True,
    )


def _broadcast_state(model: nn.Module) -> None:
    """Overwrite parameters and buffers with the values of rank 0. All ranks must have the same."""
    tensors = [*model.parameters(), *model.buffers()]
    numbers = sum(tensor.numel() for tensor in tensors)
    trained = sum(tensor.requires_grad for tensor in tensors)
    described = f"{len(tensors)} tensors, {trained} of them trained, {numbers} values"
    require_same({"model": described})
    broadcast_tensors(tensors)
