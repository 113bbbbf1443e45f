"""Export a model to ONNX and check it in ONNX Runtime: ``python -m export.onnx --help``."""

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("python -m export.onnx")

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from export.check import Exported
from export.command import Format, run_export
from export.detector import INPUTS, Detector, dynamic_shapes, output_names
from export.quiet import quiet

# PyTorch goes up to 23, which has attention as one operator; ONNX Runtime 1.31 refuses that with a
# mask to be broadcast over heads and queries, as a padding mask is.
OPSET = 22


def write(
    detector: Detector, example: tuple[Tensor, Tensor], metadata: Mapping[str, str], file: IO[bytes]
) -> None:
    """Export to one ONNX file with weights inside.

    Args:
        detector: in evaluation mode.
        example: images and padding mask, of any size.
        metadata: kept in the file as ``metadata_props``.
        file: open for writing bytes.
    """
    with quiet():
        program: Any = torch.onnx.export(
            detector,
            example,
            input_names=INPUTS,
            output_names=output_names(detector),
            dynamic_shapes=dynamic_shapes(),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    program.model.metadata_props.update(metadata)
    file.write(program.model_proto.SerializeToString())


def load(path: Path, threads: int = 0) -> Exported:
    """The model of a file in ONNX Runtime, on the CPU.

    Args:
        path: of an ONNX file.
        threads: to compute with; 0: as many as there are cores.
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
    description="Export a model to ONNX with any batch size, height and width, and compare it with "
    "PyTorch in ONNX Runtime.",
    packages=("onnx", "onnxscript", "onnxruntime"),
    write=write,
    load=load,
)


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, see `export.command.run_export`."""
    return run_export(ONNX, argv)


if __name__ == "__main__":
    sys.exit(run())
