"""Gather to rank 0 and broadcast from rank 0.

`gather_to_main` is for results that grow with the dataset: with `all_gather` every rank would hold
two copies, padded to the size of the largest rank.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from util.distributed.processes import all_gather, get_world_size, is_main_process
from util.errors import UserError

T = TypeVar("T")

# Of all ranks. The detections of an image take a few kilobytes, or a few hundred with masks.
_ITEMS_PER_ROUND = 256


def gather_to_main(items: Sequence[T], items_per_round: int = _ITEMS_PER_ROUND) -> list[T]:
    """Gather the items of all ranks on rank 0, in several rounds. Collective.

    Args:
        items: picklable objects; their number may differ between ranks.
        items_per_round: number of items per round, over all ranks.

    Returns:
        on rank 0 the items of all ranks, in the order of the ranks; on other ranks an empty list.
    """
    if get_world_size() == 1:
        return list(items)
    chunk = max(1, items_per_round // get_world_size())
    gathered: list[list[T]] = [[] for _ in range(get_world_size())]
    for first in range(0, max(all_gather(len(items))), chunk):
        received: list[Any] | None = [None] * get_world_size() if is_main_process() else None
        dist.gather_object(items[first : first + chunk], received, dst=0)
        for rank_items, part in zip(gathered, received or [], strict=False):
            rank_items.extend(part)
    return [item for rank_items in gathered for item in rank_items]


def gather_by_id(own: Mapping[int, T]) -> dict[int, T]:
    """Gather the results of images on rank 0, by image id. Collective.

    Args:
        own: results of this rank; of an image that several ranks have, the first one counts.

    Returns:
        on rank 0 all results, sorted by id; on other ranks an empty dict.
    """
    first_seen: dict[int, T] = {}
    for image_id, result in gather_to_main(list(own.items())):
        first_seen.setdefault(image_id, result)
    return dict(sorted(first_seen.items()))


def broadcast_object(value: T) -> T:
    """Broadcast a picklable object from rank 0 and return it on every rank. Collective.

    Args:
        value: the object on rank 0; ignored on other ranks.
    """
    if get_world_size() == 1:
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


@torch.no_grad()
def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with the values of rank 0. One collective per data type.

    Args:
        tensors: on the device of the process group; the same number, shapes, data types and order
            on every rank.
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
        decide: returns a picklable object; not called on other ranks.

    Raises:
        UserError: on every rank, if the function raises one on rank 0.
    """
    result: Any = None
    error: str | None = None
    if is_main_process():
        try:
            result = decide()
        except UserError as err:
            error = err.one_line()
    result, error = broadcast_object((result, error))
    if error is not None:
        raise UserError(error)
    return result
