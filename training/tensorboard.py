"""``--tensorboard``: write the numbers of ``log.txt`` and sample detections as events."""

import argparse
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from util.distributed.processes import is_main_process
from util.errors import UserError

_COCO_NAMES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)


def require_tensorboard() -> None:
    """Check that the package ``tensorboard`` is installed.

    Raises:
        UserError: if it is not; the message contains the command to install it.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs the package tensorboard: pip install tensorboard")


class TensorboardLog:
    """Writes log entries to the subfolder ``tensorboard``. Use it on rank 0 only.

    Args:
        first_epoch: epoch from which the run starts or resumes; events of this and later epochs,
            written before an interruption, are hidden.
    """

    def __init__(self, folder: Path, first_epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_epoch)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Write a log entry, and the figures if the epoch was evaluated.

        Args:
            entry: log entry with ``epoch``; other names begin with ``train_``, ``test_``, ``ema_``.
        """
        epoch = entry["epoch"]
        for name, value in scalars_in(entry):
            self._writer.add_scalar(name, value, epoch)
        was_evaluated = any(name.startswith("test_") for name in entry)
        for path in (self._folder / "detections.png", self._folder / "panoptic.png"):
            if was_evaluated and path.exists():
                with Image.open(path) as image:
                    pixels = np.asarray(image.convert("RGB"))
                self._writer.add_image(path.stem, pixels, epoch, dataformats="HWC")
        self._writer.flush()


def build_tensorboard(
    args: argparse.Namespace, folder: Path | None, first_epoch: int
) -> TensorboardLog | None:
    """The TensorBoard log on rank 0 with ``--tensorboard``; else None."""
    if not args.tensorboard or folder is None or not is_main_process():
        return None
    return TensorboardLog(folder, first_epoch)


def scalars_in(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and values of the numbers in a log entry.

    >>> dict(scalars_in({"train_loss": 2.5, "epoch": 3, "test_PQ_all": {"pq": 0.5}}))
    {'train/loss': 2.5, 'test/PQ_all/pq': 0.5}
    """
    for name, value in entry.items():
        split, _, rest = name.partition("_")
        if split not in ("train", "test", "ema"):
            continue
        if isinstance(value, int | float):
            yield f"{split}/{rest}", float(value)
        elif isinstance(value, Mapping):
            yield from ((f"{split}/{rest}/{key}", float(v)) for key, v in value.items())
        elif rest.startswith("coco_eval_"):
            kind = rest.removeprefix("coco_eval_")
            # -1: no objects of this size
            known = zip(_COCO_NAMES, value, strict=False)
            yield from ((f"{split}/{kind}/{key}", float(v)) for key, v in known if v >= 0)
