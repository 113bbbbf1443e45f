"""Steps of several batches, as if each were that of a process of its own."""

import contextlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel


class Steps:
    """The batches of a loader by steps, each with the targets of all its batches in one row."""

    def __init__(self, batches: Iterable[Any], num_batches: int) -> None:
        self._batches = batches
        self._num_batches = num_batches

    def __len__(self) -> int:
        return len(self._batches) // self._num_batches  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[list[Any], list[Any]]]:
        batches = iter(self._batches)
        while len(step := list(islice(batches, self._num_batches))) == self._num_batches:
            yield step, [target for _, targets in step for target in targets]


def unsynchronized(
    model: nn.Module, enabled: bool = True
) -> contextlib.AbstractContextManager[None]:
    """Around forward and backward: gradients are added up in this process alone.

    Args:
        model: of several processes a `DistributedDataParallel`.
        enabled: False: gradients are averaged over the processes, as always.
    """
    if enabled and isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return contextlib.nullcontext()
