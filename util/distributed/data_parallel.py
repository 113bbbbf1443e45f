"""A model that may be wrapped in `torch.nn.parallel.DistributedDataParallel`."""

import contextlib

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from util.distributed.gathering import broadcast_tensors
from util.optimizer import batch_norms


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
