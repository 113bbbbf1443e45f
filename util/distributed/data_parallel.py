"""What differs in a training step or evaluation with several processes."""

import contextlib

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from util.batch_norms import batch_norms
from util.distributed.gathering import broadcast_tensors
from util.distributed.processes import get_world_size, is_dist_avail_and_initialized


def mean_number_of_objects(
    num_objects: int, device: torch.device, num_batches: int = 1
) -> Tensor | float:
    """Mean number of objects per batch, the divisor of the losses; at least 1. Collective.

    It is the mean over all ranks and micro-batches.

    Args:
        num_objects: number of objects in all micro-batches of this rank.
        num_batches: number of micro-batches per optimizer step and rank.
    """
    if not is_dist_avail_and_initialized():
        return max(num_objects / num_batches, 1.0)
    count = torch.full((), float(num_objects), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(count)
    return (count / (num_batches * get_world_size())).clamp(min=1)


def gradient_sync(model: nn.Module, enabled: bool) -> contextlib.AbstractContextManager[None]:
    """Context of a backward pass: all-reduce the gradients if enabled, else DDP's ``no_sync``."""
    if isinstance(model, DistributedDataParallel) and not enabled:
        return model.no_sync()
    return contextlib.nullcontext()


def without_ddp(model: nn.Module) -> nn.Module:
    """Return the wrapped model, with the batch-norm statistics of rank 0. Collective."""
    if isinstance(model, DistributedDataParallel):
        model = model.module
    broadcast_tensors(buffer for norm in batch_norms(model) for buffer in norm.buffers())
    return model
