"""Export a model to TorchScript and check it: ``python -m export.torchscript --help``."""

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("python -m export.torchscript")

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from export.check import Exported
from export.command import Format, run_export
from export.detector import Detector
from export.quiet import quiet


def write(
    detector: Detector, example: tuple[Tensor, Tensor], metadata: Mapping[str, str], file: IO[bytes]
) -> None:
    """Script and save.

    Args:
        detector: in evaluation mode.
        example: not needed; scripting reads the code.
        metadata: kept in the file as extra files.
        file: open for writing bytes.
    """
    with quiet():
        torch.jit.save(torch.jit.script(detector), file, _extra_files=dict(metadata))


def load(path: Path) -> Exported:
    """The scripted model of a file, on the CPU."""
    with quiet():
        scripted: Exported = torch.jit.load(path, map_location="cpu")
    return scripted


TORCHSCRIPT = Format(
    program="python -m export.torchscript",
    description="Export a model to TorchScript, which C++ and Python load without this code, and "
    "compare it with PyTorch.",
    packages=(),
    write=write,
    load=load,
)


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, see `export.command.run_export`."""
    return run_export(TORCHSCRIPT, argv)


if __name__ == "__main__":
    sys.exit(run())
