"""The files of a run, under the names that the original gave them."""

import json
import math
from pathlib import Path
from typing import Any

from util.checkpoint import save_on_master
from util.distributed import is_main_process
from util.errors import UserError

_KEEP_EVERY = 100  # epochs between checkpoints that stay
_KEEP_EVALUATION_EVERY = 50


class RunFolder:
    """Writes checkpoints, log and evaluations of a run below ``--output_dir``.

    Without a folder nothing is written, and outside the main process neither.

    Args:
        output_dir: the folder, made where it does not exist; empty for none.

    Raises:
        UserError: the folder cannot be made.
    """

    def __init__(self, output_dir: str):
        self.path = Path(output_dir) if output_dir else None
        if self.path is None or not is_main_process():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise UserError(f"--output_dir {output_dir}: cannot be made ({err.strerror})") from err

    def save_checkpoint(self, state: dict[str, Any], epoch: int, lr_drop: int) -> None:
        """Write ``checkpoint.pth``; at times and before a drop of the learning rate one that stays.

        That is ``checkpoint{epoch:04}.pth``, every 100 and every ``lr_drop`` epochs.
        """
        if self.path is None:
            return
        names = ["checkpoint.pth"]
        if (epoch + 1) % lr_drop == 0 or (epoch + 1) % _KEEP_EVERY == 0:
            names.append(f"checkpoint{epoch:04}.pth")
        for name in names:
            save_on_master(state, self.path / name)

    def append_log(self, entry: dict[str, Any]) -> None:
        """Add a line to ``log.txt``: one JSON object. Numbers that are not finite become null."""
        if self.path is None or not is_main_process():
            return
        with (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(json.dumps(_strict(entry), allow_nan=False) + "\n")

    def save_epoch_evaluation(self, evaluation: dict[str, Any], epoch: int) -> None:
        """Write precision and recall to ``eval/latest.pth``; every 50 epochs one that stays."""
        if self.path is None:
            return
        names = ["latest.pth"]
        if epoch % _KEEP_EVALUATION_EVERY == 0:
            names.append(f"{epoch:03}.pth")
        (self.path / "eval").mkdir(exist_ok=True)
        for name in names:
            save_on_master(evaluation, self.path / "eval" / name)

    def save_evaluation(self, evaluation: dict[str, Any]) -> None:
        """Write precision and recall of ``--eval`` to ``eval.pth``."""
        if self.path is not None:
            save_on_master(evaluation, self.path / "eval.pth")


def _strict(value: Any) -> Any:
    """JSON knows no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
