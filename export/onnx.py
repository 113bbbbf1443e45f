"""Export a model to ONNX and check it in ONNX Runtime: ``python -m export.onnx --help``."""

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("python -m export.onnx")

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from export.check import Exported
from export.command import Format, run_export
from export.quiet import quiet
from export.wrapper import INPUTS, Example, ExportWrapper, dynamic_shapes, output_names

# Opset 23 adds an attention operator, but ONNX Runtime 1.31 rejects it with a mask that is
# broadcast over heads and queries, such as a padding mask.
OPSET = 22


def write(
    wrapper: ExportWrapper, example: Example, metadata: Mapping[str, str], file: IO[bytes]
) -> None:
    """Export to a single ONNX file, weights included.

    Args:
        wrapper: module in evaluation mode.
        example: images and padding mask of any size.
        metadata: stored in the file as ``metadata_props``.
        file: binary file to write.
    """
    with quiet():
        program: Any = torch.onnx.export(
            wrapper,
            example,
            input_names=INPUTS,
            output_names=output_names(wrapper),
            dynamic_shapes=dynamic_shapes(wrapper.largest_side),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    program.model.metadata_props.update(metadata)
    file.write(program.model_proto.SerializeToString())


def load(path: Path, threads: int = 0) -> Exported:
    """Load an ONNX file in ONNX Runtime on the CPU.

    Args:
        path: ONNX file.
        threads: number of threads; 0: one per core.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images: Tensor, padding_mask: Tensor) -> dict[str, Tensor]:
        inputs = dict(zip(INPUTS, (images.numpy(), padding_mask.numpy()), strict=True))
        outputs = session.run(names, inputs)
        return {n: torch.from_numpy(out) for n, out in zip(names, outputs, strict=True)}

    return run


ONNX = Format(
    program="python -m export.onnx",
    description="Export a model to ONNX with dynamic batch size, height and width, and verify the "
    "outputs in ONNX Runtime against PyTorch.",
    packages=("onnx", "onnxscript", "onnxruntime"),
    write=write,
    load=load,
)


run = partial(run_export, ONNX)  # argv -> exit status

if __name__ == "__main__":
    sys.exit(run())
