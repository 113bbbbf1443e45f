"""Export a model to ONNX and check it in ONNX Runtime: ``python -m export.onnx --help``."""

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("python -m export.onnx")

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.check import Exported
from export.command import Format, Job, run_export
from export.precision import add_precision_flags, check_precision_flags, converted
from export.quiet import quiet
from export.wrapper import INPUTS, Example, Exportable
from util.cli.command_line import ArgumentParser, FlagGroup

# PyTorch's exporter writes opset 18 or newer. Opset 23 adds an attention operator, but ONNX
# Runtime 1.31 rejects it with a mask that is broadcast over heads and queries, such as a padding
# mask.
OPSETS = range(18, 23)
OPSET = OPSETS[-1]


def to_onnx(
    module: Exportable, example: Example, metadata: Mapping[str, str], opset: int = OPSET
) -> Any:
    """Convert a module to an ``onnx.ModelProto``.

    Args:
        module: module in evaluation mode.
        example: its inputs, of any size.
        metadata: stored as ``metadata_props``.
        opset: one of `OPSETS`.
    """
    signature = module.signature()
    with quiet():
        program: Any = torch.onnx.export(
            module,  # type: ignore[arg-type]  # a torch.nn.Module
            example,
            input_names=signature.inputs,
            output_names=signature.outputs,
            dynamic_shapes=signature.dynamic_shapes,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    program.model.metadata_props.update(metadata)
    return program.model_proto


def save(model: Any, path: Path, external_data: bool = False) -> None:
    """Write an ``onnx.ModelProto``; with ``external_data`` the weights go to PATH.data."""
    import onnx

    if external_data:
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data")
    else:
        path.write_bytes(model.SerializeToString())


def load(path: Path, threads: int = 0, inputs: Sequence[str] = INPUTS) -> Exported:
    """Load an ONNX file in ONNX Runtime on the CPU.

    Args:
        threads: number of threads; 0: one per core.
        inputs: names of the inputs, in the order of the call.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(*values: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name."""
        feed = {name: value.numpy() for name, value in zip(inputs, values, strict=True)}
        outputs = session.run(names, feed)
        return {n: torch.from_numpy(out) for n, out in zip(names, outputs, strict=True)}

    return run


def _add_flags(parser: ArgumentParser) -> None:
    group = FlagGroup(parser, "ONNX")
    group.add("--opset", "opset version", type=int, choices=OPSETS, default=OPSET)
    group.add_switch(
        "--external_data", "write the weights to OUTPUT.data (needed for more than 2 GiB)"
    )
    add_precision_flags(group)


def _write(job: Job, path: Path, args: argparse.Namespace) -> None:
    model = to_onnx(job.module, job.example, job.metadata, args.opset)
    save(converted(model, job, args), path, args.external_data)


ONNX = Format(
    program="python -m export.onnx",
    description="Export a model to ONNX with dynamic batch size and image size (or --fixed_size) "
    "and verify the outputs in ONNX Runtime against PyTorch.",
    packages=("onnx", "onnxscript", "onnxruntime"),
    write=_write,
    load=lambda path, inputs: load(path, inputs=inputs),
    add_flags=_add_flags,
    check_flags=check_precision_flags,
)


run = partial(run_export, ONNX)  # argv -> exit status

if __name__ == "__main__":
    sys.exit(run())
