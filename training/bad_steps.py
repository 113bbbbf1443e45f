"""What happens to a training step whose numbers are not finite."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from models.criterion import SetCriterion
from training import forensics
from training.state import RunState
from util.distributed.processes import all_gather, get_rank
from util.errors import DivergenceError, UserError
from util.step_watch import StepRecord, image_names

DUMP = "bad_step.pth"
_TOO_LARGE = "there was no memory left to do it again beside the training"


class BadSteps:
    """Leaves bad steps out, as many as are allowed; the next one is explained and ends the run.

    It is told of each in all processes together, see `util.step_watch.StepWatch`.

    Args:
        args: all flags.
        model: not wrapped for several processes.
        criterion: gives the losses.
        folder: of the run, for `DUMP`; None without one.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        model: nn.Module,
        criterion: SetCriterion,
        folder: Path | None,
    ) -> None:
        self._args = args
        self._model = model
        self._criterion = criterion
        self._folder = folder

    def meet(self, records: Sequence[StepRecord], state: RunState) -> None:
        """Count a step, while the weights are still those of it.

        Args:
            records: of its batches in this process.
            state: of the run.

        Raises:
            DivergenceError: it is one too many; names what is known of it.
        """
        state.skipped_steps += 1
        allowed = self._args.max_skipped_steps
        if state.skipped_steps > allowed:
            raise DivergenceError(f"{self._explain(records)}; the weights are those of before")
        images = ", ".join(all_gather(image_names(records)))
        print(
            f"epoch {records[0].epoch}, step {records[0].step} was not finite and is left out, "
            f"number {state.skipped_steps} of --max_skipped_steps {allowed}; images {images}"
        )

    def _explain(self, records: Sequence[StepRecord]) -> str:
        """What the first process that finds a cause in its share of the step says, in each of them.

        That process also writes `DUMP`.
        """
        record, cause = self._examine(records)
        message = forensics.describe(record, cause)
        everywhere = all_gather((cause not in (forensics.NOTHING_FOUND, _TOO_LARGE), message))
        finder = next((rank for rank, (found, _) in enumerate(everywhere) if found), 0)
        message = everywhere[finder][1]
        if self._folder is None:
            return message
        dump = self._folder / DUMP
        if get_rank() == finder:
            try:
                forensics.save_step(dump, record, self._model, self._args)
            except UserError as err:  # what was found must not go with it
                return f"{message}; {err.one_line()}"
        return f"{message}; do it again with: python forensics.py {dump}"

    def _examine(self, records: Sequence[StepRecord]) -> tuple[StepRecord, str]:
        try:
            return forensics.explain(self._model, self._criterion, records, self._args.amp)
        except torch.OutOfMemoryError:
            return records[0], _TOO_LARGE
