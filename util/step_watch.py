"""Skip optimizer steps with a non-finite loss or gradient, without an extra host-device sync.

Whether a step is finite is computed on the device, and a non-finite update is masked there. The
host reads the flag one step later, after the matcher has synchronized with the device anyway, and
calls a handler with the data of the skipped step: in a run, `training.nonfinite.NonFinitePolicy`.
`util.optimizer.update_weights` applies the update, or masks it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from util.distributed.processes import reduce_dict
from util.errors import DivergenceError
from util.reproducibility.random_state import State


class StepRecord(NamedTuple):
    """A micro-batch of an optimizer step, with all data needed to describe and replay it.

    Attributes:
        epoch: number of the epoch, from 0.
        step: number of the optimizer step in the epoch, from 0.
        samples: images as loaded: a `util.nested_tensor.NestedTensor`, or 8-bit images that
            ``to`` normalizes and pads.
        targets: one dict per image, as loaded.
        num_boxes: divisor of the losses of matched pairs.
        losses: losses by name, as logged.
        random_state: state of the random generators before the micro-batch.
    """

    epoch: int
    step: int
    samples: Any
    targets: Sequence[dict[str, Tensor]]
    num_boxes: Tensor | float
    losses: dict[str, Tensor]
    random_state: State

    def image_ids(self) -> list[int]:
        """Image ids of the targets that have one."""
        return [int(target["image_id"]) for target in self.targets if "image_id" in target]


def image_names(records: Sequence[StepRecord]) -> str:
    """Image ids of all micro-batches of a step, separated by commas."""
    return ", ".join(str(image_id) for record in records for image_id in record.image_ids())


def refuse_nonfinite_step(records: Sequence[StepRecord]) -> None:
    """Raise a DivergenceError with epoch, step and image ids."""
    raise DivergenceError(
        f"epoch {records[0].epoch}, step {records[0].step}: loss or gradient of images "
        f"{image_names(records)} is not finite; the update was not applied"
    )


class StepWatch:
    """Copies two flags of each step to the host asynchronously, and acts on them one step later.

    Args:
        on_nonfinite: called with the records of each non-finite step, on all ranks, before the next
            update: the weights are still those that the skipped step was computed with.

    Attributes:
        stop_agreed: whether a stop request of any rank has reached all ranks.
    """

    def __init__(
        self,
        device: torch.device,
        on_nonfinite: Callable[[Sequence[StepRecord]], None] = refuse_nonfinite_step,
    ) -> None:
        self._flags = torch.zeros(2, dtype=torch.bool, pin_memory=device.type == "cuda")
        self._device = device
        self._arrival = torch.cuda.Event() if device.type == "cuda" else None
        self._on_nonfinite = on_nonfinite
        self._records: Sequence[StepRecord] = ()
        self.stop_agreed = False

    def send_flags(self, is_nonfinite: Tensor, stop: Tensor, records: Sequence[StepRecord]) -> None:
        """Start an asynchronous copy of the flags of a step to the host.

        Args:
            is_nonfinite: 0-d bool tensor, whether the step was non-finite on any rank.
            stop: 0-d bool tensor, whether any rank wants to stop.
            records: micro-batches of the step on this rank.
        """
        self._flags.copy_(torch.stack([is_nonfinite, stop]), non_blocking=True)
        if self._arrival is not None:
            self._arrival.record(torch.cuda.current_stream(self._device))
        self._records = records

    def read_flags(self) -> None:
        """Read the flags of the last step and act on them; no-op if they have already been read.

        After a later synchronization, such as the matching of the next step, the flags have
        already been copied, and this call does not wait.
        """
        records, self._records = self._records, ()
        if not records:
            return
        if self._arrival is not None:
            self._arrival.synchronize()
        is_nonfinite, stop = self._flags.tolist()
        self.stop_agreed = self.stop_agreed or stop
        if is_nonfinite:
            self._on_nonfinite(records)


def reduce_step(
    records: Sequence[StepRecord], gradient_norm: Tensor, wants_to_stop: bool
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Average the losses of a step over micro-batches and ranks. Collective, one all-reduce.

    NaN marks a missing value (the class error of a batch without objects) and is excluded from the
    average.

    Args:
        records: micro-batches of the step on this rank.
        gradient_norm: norm of all gradients; non-finite if any gradient is.
        wants_to_stop: whether this rank wants to stop.

    Returns:
        averages by name, all NaN for a non-finite step; whether the step is non-finite on any rank;
        whether any rank wants to stop.
    """
    logs = [record.losses for record in records]
    values = torch.stack([torch.stack(list(log.values())) for log in logs])  # (batches, names)
    total = gradient_norm + torch.stack([log["loss"] for log in logs]).sum()
    missing = values.isnan()
    sums = reduce_dict(
        {
            "value": values.masked_fill(missing, 0).sum(0),
            "count": (~missing).sum(0).to(values.dtype),
            "nonfinite": (~total.isfinite()).to(values.dtype).expand(values.shape[1]),
            "stop": torch.full_like(values[0], float(wants_to_stop)),
        },
        average=False,
    )
    is_nonfinite, stop = sums["nonfinite"][0] > 0, sums["stop"][0] > 0
    averages = (sums["value"] / sums["count"]).masked_fill(is_nonfinite, math.nan)
    return dict(zip(logs[0], averages, strict=True)), is_nonfinite, stop
