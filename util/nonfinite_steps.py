"""Skip optimizer steps with a non-finite loss or gradient, without waiting for the device.

The device decides whether a step is finite and masks its update. The host reads the decision one
step later, after a transfer that takes place anyway, and then calls a handler with the data of the
skipped step.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from util.distributed.processes import reduce_dict
from util.errors import DivergenceError
from util.optimizer import batch_norms
from util.reproducibility.random_state import State


class StepRecord(NamedTuple):
    """A micro-batch of an optimizer step, with everything needed to describe and replay it.

    Attributes:
        epoch: number of the epoch.
        step: number of the optimizer step in the epoch, from 0.
        samples: images, a `util.nested_tensor.NestedTensor`, as loaded.
        targets: one dict per image, as loaded.
        num_boxes: divisor of the losses of matched pairs.
        losses: logged losses by name.
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
    """Raise a DivergenceError that names the images of a step."""
    raise DivergenceError(
        f"epoch {records[0].epoch}, step {records[0].step}: loss or gradient of images "
        f"{image_names(records)} is not finite; the update was not applied"
    )


class StepWatch:
    """Sends two flags of each step to the host asynchronously, and acts on them one step later.

    Args:
        device: device of the flags.
        on_nonfinite: called with the records of each non-finite step, on all ranks together and
            before the next update. The weights are still those of the skipped step.

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

    def send_flags(self, is_bad: Tensor, stop: Tensor, records: Sequence[StepRecord]) -> None:
        """Start an asynchronous copy of the flags of a step to the host.

        Args:
            is_bad: bool without dimensions, whether the step was non-finite on any rank.
            stop: bool without dimensions, whether any rank wants to stop.
            records: the micro-batches of the step in this process.
        """
        self._flags.copy_(torch.stack([is_bad, stop]), non_blocking=True)
        if self._arrival is not None:
            self._arrival.record(torch.cuda.current_stream(self._device))
        self._records = records

    def read_flags(self) -> None:
        """Act on the flags sent last; without effect if they were read before.

        After a later transfer from the device, such as the matching of the next step, the flags
        have already arrived and this does not wait.
        """
        records, self._records = self._records, ()
        if not records:
            return
        if self._arrival is not None:
            self._arrival.synchronize()
        is_bad, stop = self._flags.tolist()
        self.stop_agreed = self.stop_agreed or stop
        if is_bad:
            self._on_nonfinite(records)


def reduce_step(
    logs: Sequence[dict[str, Tensor]], gradient_norm: Tensor, wants_to_stop: bool
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Average the losses of a step over micro-batches and ranks. Collective, one all-reduce.

    NaN stands for a value that a micro-batch could not observe, and stays out of the average.

    Args:
        logs: logged losses of each micro-batch of this process.
        gradient_norm: norm of all gradients; non-finite if a gradient is.
        wants_to_stop: whether this process wants to stop.

    Returns:
        the averages, all NaN for a non-finite step; whether the step is non-finite on any rank;
        whether any rank wants to stop.
    """
    values = torch.stack([torch.stack(list(log.values())) for log in logs])  # (batches, names)
    total = gradient_norm + torch.stack([log["loss"] for log in logs]).sum()
    missing = values.isnan()
    sums = reduce_dict(
        {
            "value": values.masked_fill(missing, 0).sum(0),
            "count": (~missing).sum(0).to(values.dtype),
            "bad": (~total.isfinite()).to(values.dtype).expand(values.shape[1]),
            "stop": torch.full_like(values[0], float(wants_to_stop)),
        },
        average=False,
    )
    is_bad, stop = sums["bad"][0] > 0, sums["stop"][0] > 0
    averages = (sums["value"] / sums["count"]).masked_fill(is_bad, math.nan)
    return dict(zip(logs[0], averages, strict=True)), is_bad, stop


def update_weights(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, skip: Tensor
) -> None:
    """Take an optimizer step, or leave weights and optimizer state unchanged.

    Only an optimizer that is not fused makes the host wait for ``skip``.

    Args:
        optimizer: its parameters have their gradients.
        scaler: the loss scaler. It also skips steps with overflowing gradients; if enabled, it
            treats ``skip`` as an overflow and lowers its scale.
        skip: bool without dimensions, on the device.
    """
    if scaler.is_enabled():
        _record_overflow(scaler, optimizer, skip)
        scaler.step(optimizer)
        scaler.update()
    elif all(group.get("fused") for group in optimizer.param_groups):
        fused: Any = optimizer  # the attributes by which GradScaler masks fused optimizers
        fused.grad_scale, fused.found_inf = None, skip.to(torch.float32)
        try:
            optimizer.step()
        finally:
            del fused.grad_scale, fused.found_inf
    elif not skip:
        optimizer.step()


def _record_overflow(
    scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, skip: Tensor
) -> None:
    """Make the scaler skip the step where ``skip`` is true, without a host synchronization.

    The scaler checks gradients only, which may be finite although the loss is not.
    """
    if not scaler._found_inf_per_device(optimizer):  # gradients are still scaled
        scaler.unscale_(optimizer)
    # One tensor per device; PyTorch has no public access to them.
    for found_inf in scaler._found_inf_per_device(optimizer).values():
        found_inf.masked_fill_(skip.to(found_inf.device, non_blocking=True), 1)


class BatchNormBackup:
    """Restores the running statistics of batch norms after a skipped step.

    Args:
        model: its batch norms that are in training mode count.
    """

    def __init__(self, model: nn.Module) -> None:
        norms = [norm for norm in batch_norms(model) if norm.training]
        self._buffers = [buffer for norm in norms for buffer in norm.buffers()]
        self._saved = [buffer.clone() for buffer in self._buffers]

    def save(self) -> None:
        """Copy the running statistics. Call before the forward pass."""
        for saved, buffer in zip(self._saved, self._buffers, strict=True):
            saved.copy_(buffer)

    def restore(self, skipped: Tensor) -> None:
        """Write the copies back where ``skipped``, a bool on the device, is true."""
        for saved, buffer in zip(self._saved, self._buffers, strict=True):
            buffer.copy_(torch.where(skipped, saved, buffer))
