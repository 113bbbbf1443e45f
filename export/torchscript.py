"""Export a model to TorchScript and check it: ``python -m export.torchscript --help``."""

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("python -m export.torchscript")

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO

import torch

from export.check import Exported
from export.command import Format, run_export
from export.quiet import quiet
from export.wrapper import Example, ExportWrapper


def write(
    wrapper: ExportWrapper, example: Example, metadata: Mapping[str, str], file: IO[bytes]
) -> None:
    """Export to a TorchScript file with `torch.jit.script`.

    Args:
        wrapper: module in evaluation mode.
        example: not used; scripting compiles the code.
        metadata: stored in the file as extra files.
        file: binary file to write.
    """
    with quiet():
        torch.jit.save(torch.jit.script(wrapper), file, _extra_files=dict(metadata))


def load(path: Path) -> Exported:
    """Load the scripted model of a file on the CPU."""
    with quiet():
        scripted: Exported = torch.jit.load(path, map_location="cpu")
    return scripted


TORCHSCRIPT = Format(
    program="python -m export.torchscript",
    description="Export a model to TorchScript (to load from C++, or from Python without this "
    "repository), and verify the outputs.",
    packages=(),
    write=write,
    load=load,
)


run = partial(run_export, TORCHSCRIPT)  # argv -> exit status

if __name__ == "__main__":
    sys.exit(run())
