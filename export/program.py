"""Export a model with torch.export and check it: ``python -m export.program --help``."""

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("python -m export.program")

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO

import torch

from export.check import Exported
from export.command import Format, run_export
from export.quiet import quiet
from export.wrapper import SMALLEST_SIDE, Example, ExportWrapper, dynamic_shapes


def write(
    wrapper: ExportWrapper, example: Example, metadata: Mapping[str, str], file: IO[bytes]
) -> None:
    """Export to a ``.pt2`` file with dynamic batch size, height and width.

    Args:
        wrapper: module in evaluation mode.
        example: images and padding mask of any size.
        metadata: stored in the file as extra files.
        file: binary file to write.
    """
    with quiet():
        program = torch.export.export(
            wrapper,
            example,
            dynamic_shapes=dynamic_shapes(wrapper.largest_side),
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        _remove_size_assertions(program)
        torch.export.save(program, file, extra_files=dict(metadata))


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


def load(path: Path) -> Exported:
    """Load the exported program of a file on the CPU."""
    with quiet(), open(path, "rb") as file:  # torch.export.load requires paths to end in .pt2
        module: Exported = torch.export.load(file).module()
    return module


PROGRAM = Format(
    program="python -m export.program",
    description="Export a model with torch.export (for ExecuTorch and AOTInductor), and verify the "
    "outputs against PyTorch.",
    packages=(),
    write=write,
    load=load,
    smallest_side=SMALLEST_SIDE,
)


run = partial(run_export, PROGRAM)  # argv -> exit status

if __name__ == "__main__":
    sys.exit(run())
