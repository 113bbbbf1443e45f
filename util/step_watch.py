"""Watching training steps from the host without ever waiting for the device."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from util.errors import DivergenceError
from util.random_state import State


class StepRecord(NamedTuple):
    """What is needed to tell of a training step, and to do it again.

    Attributes:
        epoch: its number.
        step: its number in the epoch, from 0.
        samples: images of the batch, a `util.nested_tensor.NestedTensor`.
        targets: of the batch.
        losses: by name, as they are logged.
        random_state: before the step.
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


def refuse_bad_step(record: StepRecord) -> None:
    """Raise a DivergenceError that names the images of a step."""
    images = ", ".join(map(str, record.image_ids()))
    raise DivergenceError(
        f"epoch {record.epoch}, step {record.step}: loss or gradient of images {images} is not "
        "finite; the weights are those of before"
    )


class StepWatch:
    """Learns of each step whether its numbers were finite, and whether some process wants to stop.

    The two flags of a step travel to page-locked host memory behind the work of that step. They
    have arrived once the host has waited for anything later, as it does in the matching of the next
    step. That is why both take effect one step late; weights are safe, since the update of a bad
    step is masked on the device.

    Args:
        device: where flags come from.
        on_bad_step: told of each step that was masked, while the weights are still those of it.

    Attributes:
        stop_agreed: whether all processes know by now that one wants to stop.
    """

    def __init__(
        self, device: torch.device, on_bad_step: Callable[[StepRecord], None] = refuse_bad_step
    ) -> None:
        self._flags = torch.zeros(2, dtype=torch.bool, pin_memory=device.type == "cuda")
        self._device = device
        self._on_bad_step = on_bad_step
        self._record: StepRecord | None = None
        self.stop_agreed = False

    def record(self, bad: Tensor, stop: Tensor, record: StepRecord) -> None:
        """Send the flags of a step, bool tensors without dimensions, on their way."""
        self._flags.copy_(torch.stack([bad, stop]), non_blocking=True)
        self._record = record

    def __enter__(self) -> None:
        """Around work that waits for the device; afterwards flags can be read free of charge."""

    def __exit__(self, *error: object) -> None:
        """Look at the flags of the last recorded step, first of all where that work has failed."""
        self._read()

    def settle(self) -> None:
        """Wait for the flags of the last step and look at them, before something is saved."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._read()

    def _read(self) -> None:
        record, self._record = self._record, None
        if record is None:
            return
        bad, stop = self._flags.tolist()
        self.stop_agreed = self.stop_agreed or stop
        if bad:
            self._on_bad_step(record)
