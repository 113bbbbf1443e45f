"""Skip a limited number of non-finite training steps; replay the next one and end the run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.criterion import SetCriterion
from training.nonfinite import replay
from training.state import RunState
from util.distributed.processes import all_gather, get_rank
from util.errors import DivergenceError, UserError
from util.nonfinite_steps import StepRecord, image_names

DUMP = "bad_step.pth"
_OUT_OF_MEMORY = "not enough memory to replay the step during training"


class NonFinitePolicy:
    """Skips non-finite steps up to a limit; looks for the cause of the next one and ends the run.

    Args:
        model: the model, not wrapped in `DistributedDataParallel`.
        criterion: criterion of the model.
        folder: output folder in which `DUMP` is written; None: no folder.
        flags: all flags of the run by name. ``amp`` and ``max_skipped_steps`` are used here; all
            are saved in `DUMP`.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: SetCriterion,
        folder: Path | None,
        flags: Mapping[str, Any],
    ) -> None:
        self._model = model
        self._criterion = criterion
        self._folder = folder
        self._flags = flags

    def handle(self, records: Sequence[StepRecord], state: RunState) -> None:
        """Count a skipped step. Collective; call this before the weights change.

        Args:
            records: micro-batches of the step on this rank.
            state: training progress; its ``skipped_steps`` is increased.

        Raises:
            DivergenceError: if more steps than allowed were non-finite; the message contains the
                cause, if it was found.
        """
        state.skipped_steps += 1
        allowed = self._flags["max_skipped_steps"]
        if state.skipped_steps > allowed:
            raise DivergenceError(f"{self._explain(records)}; the update was not applied")
        images = ", ".join(all_gather(image_names(records)))
        print(
            f"epoch {records[0].epoch}, step {records[0].step}: non-finite loss or gradient, step "
            f"skipped ({state.skipped_steps} of --max_skipped_steps {allowed}); images {images}"
        )

    def _explain(self, records: Sequence[StepRecord]) -> str:
        """Replay the step on all ranks, and return the message of the lowest rank with a cause.

        That rank, or rank 0 if none finds a cause, also writes `DUMP`.
        """
        record, cause = self._examine(records)
        message = replay.describe(record, cause)
        gathered = all_gather((cause not in (replay.NOTHING_FOUND, _OUT_OF_MEMORY), message))
        reporting_rank = next((rank for rank, (found, _) in enumerate(gathered) if found), 0)
        message = gathered[reporting_rank][1]
        if self._folder is None:
            return message
        dump = self._folder / DUMP
        if get_rank() == reporting_rank:
            try:
                replay.save_step(dump, record, self._model, self._flags)
            except UserError as err:  # the file cannot be written: still report the cause
                return f"{message}; {err.one_line()}"
        return f"{message}; replay it with: python forensics.py {dump}"

    def _examine(self, records: Sequence[StepRecord]) -> tuple[StepRecord, str]:
        amp = self._flags["amp"]
        try:
            return replay.find_cause(self._model, self._criterion, records, amp)
        except torch.OutOfMemoryError:
            return records[0], _OUT_OF_MEMORY
