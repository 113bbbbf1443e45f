"""Export a model with torch.export and check it: ``python -m export.program --help``."""

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("python -m export.program")

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from export.check import Exported
from export.command import Format, run_export
from export.detector import SMALLEST_SIDE, Detector, dynamic_shapes
from export.quiet import quiet


def write(
    detector: Detector, example: tuple[Tensor, Tensor], metadata: Mapping[str, str], file: IO[bytes]
) -> None:
    """Export to a ``.pt2`` file, with any batch size, height and width.

    Args:
        detector: in evaluation mode.
        example: images and padding mask, of any size.
        metadata: kept in the file as extra files.
        file: open for writing bytes.
    """
    with quiet():
        program = torch.export.export(
            detector,
            example,
            dynamic_shapes=dynamic_shapes(),
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        _remove_size_assertions(program)
        torch.export.save(program, file, extra_files=dict(metadata))


def _remove_size_assertions(program: torch.export.ExportedProgram) -> None:
    """Remove what tracing took for granted about the sizes of the example.

    On the way to the output size of a pooling layer PyTorch asks whether a remainder is zero, does
    the same in both cases, and would refuse every image whose remainder is another.
    """
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()


def load(path: Path) -> Exported:
    """The exported program of a file, on the CPU."""
    with quiet(), open(path, "rb") as file:  # a path would have to end in .pt2
        module: Exported = torch.export.load(file).module()
    return module


PROGRAM = Format(
    program="python -m export.program",
    description="Export a model with torch.export, as ExecuTorch and AOTInductor take it, and "
    "compare it with PyTorch.",
    packages=(),
    write=write,
    load=load,
    smallest_side=SMALLEST_SIDE,
)


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, see `export.command.run_export`."""
    return run_export(PROGRAM, argv)


if __name__ == "__main__":
    sys.exit(run())
