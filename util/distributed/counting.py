"""Number of objects in the batches of all processes, the divisor of the losses."""

import torch
from torch import Tensor

from util.distributed.processes import get_world_size, is_dist_avail_and_initialized


def mean_number_of_objects(
    num_objects: int, device: torch.device, num_batches: int = 1
) -> Tensor | float:
    """Mean number of objects per batch, over all ranks and micro-batches; at least 1. Collective.

    Args:
        num_objects: number of objects in all micro-batches of this rank.
        device: device of the losses.
        num_batches: number of micro-batches per optimizer step and rank.
    """
    if not is_dist_avail_and_initialized():
        return max(num_objects / num_batches, 1.0)
    count = torch.full((), float(num_objects), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(count)
    return (count / (num_batches * get_world_size())).clamp(min=1)
