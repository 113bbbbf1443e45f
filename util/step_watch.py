"""Watching training steps from the host without ever waiting for the device."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from util.errors import DivergenceError
from util.random_state import State


class StepRecord(NamedTuple):
    """What is needed to tell of a training step on one batch, and to do it again.

    Attributes:
        epoch: its number.
        step: its number in the epoch, from 0.
        samples: images of the batch, a `util.nested_tensor.NestedTensor`, as they were loaded.
        targets: of the batch, as they were loaded.
        losses: by name, as they are logged.
        random_state: before the batch.
    """

    epoch: int
    step: int
    samples: Any
    targets: Sequence[dict[str, Tensor]]
    losses: dict[str, Tensor]
    random_state: State

    def image_ids(self) -> list[int]:
        """Ids of the images, as far as the targets tell."""
        return [int(target["image_id"]) for target in self.targets if "image_id" in target]


def image_names(records: Sequence[StepRecord]) -> str:
    """The ids of all images of a step, in words."""
    return ", ".join(str(image_id) for record in records for image_id in record.image_ids())


def refuse_bad_step(records: Sequence[StepRecord]) -> None:
    """Raise a DivergenceError that names the images of a step."""
    raise DivergenceError(
        f"epoch {records[0].epoch}, step {records[0].step}: loss or gradient of images "
        f"{image_names(records)} is not finite; the weights are those of before"
    )


class StepWatch:
    """Learns of each step whether its numbers were finite, and whether some process wants to stop.

    The two flags of a step travel to page-locked host memory behind the work of that step. They
    have arrived once the host has waited for anything later, as it does in the matching of the next
    step, unless that has no objects. That is why both take effect one step late; weights are safe,
    since the update of a bad step is masked on the device.

    Args:
        device: where flags come from.
        on_bad_step: told of each step that was masked, with a record for each of its batches, while
            the weights are still those of it.

    Attributes:
        stop_agreed: whether all processes know by now that one wants to stop.
    """

    def __init__(
        self,
        device: torch.device,
        on_bad_step: Callable[[Sequence[StepRecord]], None] = refuse_bad_step,
    ) -> None:
        self._flags = torch.zeros(2, dtype=torch.bool, pin_memory=device.type == "cuda")
        self._device = device
        self._arrival = torch.cuda.Event() if device.type == "cuda" else None
        self._on_bad_step = on_bad_step
        self._records: Sequence[StepRecord] = ()
        self.stop_agreed = False

    def record(self, bad: Tensor, stop: Tensor, records: Sequence[StepRecord]) -> None:
        """Send the flags of a step, bool tensors without dimensions, on their way.

        Args:
            bad: whether some number of the step was not finite, in any process.
            stop: whether some process wants to stop.
            records: one for each batch of the step in this process.
        """
        self._flags.copy_(torch.stack([bad, stop]), non_blocking=True)
        if self._arrival is not None:
            self._arrival.record(torch.cuda.current_stream(self._device))
        self._records = records

    def __enter__(self) -> None:
        """Around work that waits for the device; afterwards flags can be read free of charge."""

    def __exit__(self, *error: object) -> None:
        """Look at the flags of the last recorded step, first of all where that work has failed."""
        self._read()

    def settle(self) -> None:
        """Wait for the flags of the last step and look at them, before something is saved."""
        self._read()

    def _read(self) -> None:
        records, self._records = self._records, ()
        if not records:
            return
        if self._arrival is not None:
            self._arrival.synchronize()
        bad, stop = self._flags.tolist()
        self.stop_agreed = self.stop_agreed or stop
        if bad:
            self._on_bad_step(records)
