"""``--tensorboard``: the numbers of ``log.txt`` and sample detections as TensorBoard events."""

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
    """Refuse ``--tensorboard`` without its package.

    Raises:
        UserError: names the command that installs it.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs the package tensorboard: pip install tensorboard")


class TensorboardLog:
    """Writes epochs to the folder ``tensorboard`` of a run. Use it on rank 0 only.

    Args:
        folder: of the run.
        first_epoch: epoch that the run starts or continues with: events of this and later epochs,
            as of a run that was interrupted, are hidden.
    """

    def __init__(self, folder: Path, first_epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_epoch)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Write an entry of the log, and after an evaluation its pictures.

        Args:
            entry: with ``epoch``; names begin with ``train_``, ``test_`` or ``ema_``.
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
    """The log of ``--tensorboard`` on rank 0; else None."""
    if not args.tensorboard or folder is None or not is_main_process():
        return None
    return TensorboardLog(folder, first_epoch)


def scalars_in(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and values of the numbers in an entry of the log.

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
