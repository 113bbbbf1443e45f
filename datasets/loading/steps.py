"""Batches grouped by optimizer step, for gradient accumulation."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from torch import Tensor

from util.nested_tensor import NestedTensor

Target = dict[str, Tensor]
Batch = tuple[NestedTensor, Sequence[Target]]


class Steps:
    """Yields (batches, targets) of each optimizer step; an incomplete last step is dropped.

    The targets of all batches are for `MetricLogger.log_every`, which counts the images of a step.

    Args:
        batches: usually a data loader.
        accum_steps: batches per optimizer step.
    """

    def __init__(self, batches: Iterable[Batch], accum_steps: int) -> None:
        self._batches = batches
        self._accum_steps = accum_steps

    def __len__(self) -> int:
        return len(self._batches) // self._accum_steps  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[list[Batch], list[Target]]]:
        batches = iter(self._batches)
        while len(step := list(islice(batches, self._accum_steps))) == self._accum_steps:
            yield step, [target for _, targets in step for target in targets]
