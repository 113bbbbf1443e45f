"""Batches on their way through the network: outputs, and the gradients of a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.criterion import SetCriterion, mean_number_of_objects
from util.accumulation import unsynchronized
from util.nested_tensor import NestedTensor
from util.optimizer import backward
from util.random_state import random_state
from util.step_log import weigh
from util.step_watch import StepRecord, StepWatch

Targets = Sequence[dict[str, Tensor]]
Batch = tuple[NestedTensor, Targets]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Images and targets on a device; nobody waits for them there."""
    samples, targets = batch
    return (
        samples.to(device, non_blocking=True),
        [{k: v.to(device, non_blocking=True) for k, v in t.items()} for t in targets],
    )


def predict(model: nn.Module, samples: NestedTensor, device: torch.device, amp: str) -> Any:
    """The model's outputs, in mixed precision unless ``amp`` is ``off``: ``bf16`` or ``fp16``."""
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    with torch.autocast(device.type, dtype=dtype, enabled=amp != "off"):
        return model(samples)


@dataclass(frozen=True)
class Gradients:
    """Computes the gradients of steps; attributes as the arguments of `engine.train_one_epoch`."""

    model: nn.Module
    criterion: SetCriterion
    device: torch.device
    amp: str
    scaler: torch.amp.GradScaler | None
    watch: StepWatch

    def compute(self, batches: Sequence[Batch], epoch: int, step: int) -> list[StepRecord]:
        """Average the gradients of the batches of a step, and of all processes.

        Args:
            batches: of this process.
            epoch, step: numbers for the records.

        Returns:
            a record of each batch, with the losses of `util.step_log.weigh`.
        """
        count = self._mean_number_of_objects(batches)
        records = []
        for number, batch in enumerate(batches, start=1):
            before = random_state()
            with unsynchronized(self.model, number < len(batches)):
                samples, targets = to_device(batch, self.device)
                with self.watch:
                    outputs = predict(self.model, samples, self.device, self.amp)
                    losses = self.criterion(outputs, targets, *count)
                loss, log = weigh(losses, self.criterion.weight_dict, targets)
                backward(loss / len(batches), self.scaler)
            records.append(StepRecord(epoch, step, *batch, log, before))
        return records

    def _mean_number_of_objects(self, batches: Sequence[Batch]) -> tuple[Tensor | float, ...]:
        """That of a step of several batches; of a single one the criterion counts for itself."""
        if len(batches) == 1:
            return ()
        count = sum(len(target["labels"]) for _, targets in batches for target in targets)
        return (mean_number_of_objects(count, self.device, len(batches)),)
