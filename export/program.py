"""Export a model with torch.export and check it: ``python -m export.program --help``."""

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("python -m export.program")

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from export.check import Exported
from export.command import Format, Job, run_export
from export.quiet import quiet
from export.wrapper import INPUTS, SMALLEST_SIDE


def write(job: Job, path: Path, args: argparse.Namespace) -> None:
    """Export to a ``.pt2`` file; the metadata are extra files.

    Args:
        args: not used.
    """
    with quiet():
        program = torch.export.export(
            job.module,
            job.example,
            dynamic_shapes=job.module.signature().dynamic_shapes,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        _remove_size_assertions(program)
        with path.open("wb") as file:  # torch.export.save requires paths to end in .pt2
            torch.export.save(program, file, extra_files=dict(job.metadata))


def _remove_size_assertions(program: torch.export.ExportedProgram) -> None:
    """Remove assertions that hold only for the sizes of the example.

    To compute the output size of a pooling layer, PyTorch tests whether a remainder is zero. The
    result is the same in both cases, but the assertion would reject images with other remainders.
    """
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()


def load(path: Path, inputs: Sequence[str] = INPUTS) -> Exported:
    """Load the exported program of a file on the CPU."""
    with quiet(), open(path, "rb") as file:  # torch.export.load requires paths to end in .pt2
        module: Exported = torch.export.load(file).module()
    return module


PROGRAM = Format(
    program="python -m export.program",
    description="Export a model with torch.export (to load without this repository), and verify "
    "the outputs against PyTorch.",
    packages=(),
    write=write,
    load=load,
    smallest_side=SMALLEST_SIDE,
)


run = partial(run_export, PROGRAM)  # argv -> exit status

if __name__ == "__main__":
    sys.exit(run())
