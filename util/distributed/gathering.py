"""What the main process collects from the others, and what it tells them.

For results that grow with the data set. `util.distributed.all_gather` would hold all of them in
every process, padded to the largest share, twice.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from util.distributed.processes import all_gather, get_world_size, is_main_process
from util.errors import UserError

T = TypeVar("T")

# Of all processes together. The detections of an image are some kilobytes, with masks some hundred.
_ITEMS_A_ROUND = 256


def gather_to_main(items: Sequence[T], items_a_round: int = _ITEMS_A_ROUND) -> list[T]:
    """Collect items from every process, in rounds of a few; all processes must call it.

    Args:
        items: picklable; the processes may have different numbers of them.
        items_a_round: how many are on their way at once, of all processes together.

    Returns:
        The items of all processes in order of rank, in the main process; nothing in the others.
    """
    if get_world_size() == 1:
        return list(items)
    chunk = max(1, items_a_round // get_world_size())
    gathered: list[list[T]] = [[] for _ in range(get_world_size())]
    for first in range(0, max(all_gather(len(items))), chunk):
        received: list[Any] | None = [None] * get_world_size() if is_main_process() else None
        dist.gather_object(items[first : first + chunk], received, dst=0)
        for own, part in zip(gathered, received or [], strict=False):
            own.extend(part)
    return [item for own in gathered for item in own]


def broadcast_object(value: T) -> T:
    """The main process's ``value``, in every process; all must call it.

    Args:
        value: picklable; that of other processes is not looked at.
    """
    if get_world_size() == 1:
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


@torch.no_grad()
def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with the values of rank 0, one collective per data type.

    Args:
        tensors: on the device that the process group communicates on; every rank gives the same
            number of tensors, with the same shapes and data types, in the same order.
    """
    if get_world_size() == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for group in by_dtype.values():
        flat = torch.cat([tensor.flatten() for tensor in group])
        dist.broadcast(flat, src=0)
        parts = flat.split([tensor.numel() for tensor in group])
        for tensor, part in zip(group, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))


def decide_on_main(decide: Callable[[], T]) -> T:
    """Call a function on rank 0 and return its result on every rank. Collective.

    Args:
        decide: returns something picklable; not called on other ranks.

    Raises:
        UserError: on every rank, where the function raises one on rank 0.
    """
    result: Any = None
    complaint: str | None = None
    if is_main_process():
        try:
            result = decide()
        except UserError as err:
            complaint = err.one_line()
    result, complaint = broadcast_object((result, complaint))
    if complaint is not None:
        raise UserError(complaint)
    return result
