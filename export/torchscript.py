"""Export a model to TorchScript and check it: ``python -m export.torchscript --help``."""

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("python -m export.torchscript")

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from export.check import Exported
from export.command import Format, Job, run_export
from export.quiet import quiet
from export.wrapper import INPUTS


def write(job: Job, path: Path, args: argparse.Namespace) -> None:
    """Export to a TorchScript file with `torch.jit.script`; the metadata are extra files.

    Args:
        args: not used.
    """
    with quiet():
        torch.jit.save(torch.jit.script(job.module), path, _extra_files=dict(job.metadata))


def load(path: Path, inputs: Sequence[str] = INPUTS) -> Exported:
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
    has_sizes=False,
)


run = partial(run_export, TORCHSCRIPT)  # argv -> exit status

if __name__ == "__main__":
    sys.exit(run())
