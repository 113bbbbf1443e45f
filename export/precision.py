"""16-bit and 8-bit ONNX files: the flags ``--dtype`` and ``--int8``, and the conversions."""

import argparse
import math
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.command import Job
from export.preparation import Preparation, image_paths
from export.quiet import quiet
from export.wrapper import Example
from util.cli.command_line import FlagGroup, positive_int
from util.errors import UserError

DTYPES = ("fp32", "fp16", "bf16")
_NUM_IMAGES = 100
_NUM_CHECKED = 4
# Default of --tolerance: largest differences of scores and of box coordinates in [0, 1].
_TOLERANCE = {"fp16": 0.02, "bf16": 0.1}
_TOLERANCE_INT8 = 0.5
_SMALLEST_TENSOR = 64  # elements; smaller constants stay in float32
# Linear layers and convolutions. Normalization, softmax and everything else stay in float32.
_LINEAR = ("MatMul", "Gemm")
_OPERATORS = ("Conv", *_LINEAR)


def add_precision_flags(group: FlagGroup) -> None:
    """Add the flags."""
    group.add(
        "--dtype",
        f"fp16: weights and computation in float16 (--tolerance {_TOLERANCE['fp16']}); "
        f"bf16: weights stored as bfloat16 (--tolerance {_TOLERANCE['bf16']})",
        choices=DTYPES,
        default=DTYPES[0],
    )
    group.add(
        "--int8",
        "quantize to 8-bit integers, calibrated on the images of this FOLDER "
        f"(--tolerance {_TOLERANCE_INT8})",
        metavar="FOLDER",
    )
    group.add(
        "--int8_images",
        f"number of images for --int8 (default: {_NUM_IMAGES}, or all if there are fewer)",
        type=positive_int,
    )


def check_precision_flags(args: argparse.Namespace, job: Job) -> None:
    """Check the flags, and set the tolerance and the batches of the comparison with PyTorch.

    Raises:
        UserError: contradictory flags, or no images.
    """
    if args.int8 is None:
        if args.int8_images is not None:
            raise UserError("--int8_images is only used with --int8; omit it or add --int8 FOLDER")
        job.tolerance = _TOLERANCE.get(args.dtype, job.tolerance)
        return
    if args.dtype != DTYPES[0]:
        raise UserError(f"--int8 cannot be combined with --dtype {args.dtype}: give one of them")
    if args.check_batches or args.check_sizes:
        raise UserError(
            "--check_sizes and --check_batches are not used with --int8, which is compared with "
            "PyTorch on images of its folder; omit them"
        )
    job.tolerance = _TOLERANCE_INT8
    paths = image_paths(args.int8, _NUM_CHECKED)
    job.batches = list(_preparation(job, args).batches_of(paths))


def converted(model: Any, job: Job, args: argparse.Namespace) -> Any:
    """Convert an ``onnx.ModelProto`` to the precision of the flags."""
    if args.int8 is not None:
        paths = image_paths(args.int8, args.int8_images or _NUM_IMAGES)
        print(f"calibrating on {len(paths)} images of {args.int8}", flush=True)
        batches = _preparation(job, args).batches_of(paths)
        inputs = (job.module.inputs_of(*batch) for batch in batches)
        return quantize(model, job.module.signature().inputs, inputs)
    if args.dtype == "fp16":
        return convert_to_fp16(model)
    return store_as_bf16(model) if args.dtype == "bf16" else model


def _preparation(job: Job, args: argparse.Namespace) -> Preparation:
    source = job.source
    return Preparation(source.short_side, source.max_size, args.fixed_size, source.normalization)


# ---- 16-bit floats


def convert_to_fp16(model: Any) -> Any:
    """Convert weights and computation to float16; floating-point inputs and outputs stay float32.

    Args:
        model: an ``onnx.ModelProto``.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    in_fp16: Any = convert_float_to_float16(model, keep_io_types=True)
    _remove_repeated_casts(in_fp16.graph)
    OnnxModel(in_fp16).topological_sort()  # the converter appends the casts of the inputs
    return in_fp16


def _remove_repeated_casts(graph: Any) -> None:
    """Keep one Cast of each name: the converter inserts it once per use of a tensor."""
    names: set[str] = set()
    nodes = []
    for node in graph.node:
        if node.op_type != "Cast" or node.output[0] not in names:
            nodes.append(node)
        names.update(node.output)
    del graph.node[:]
    graph.node.extend(nodes)


def store_as_bf16(model: Any) -> Any:
    """Store the weights as bfloat16. The graph converts them to float32 and computes with that.

    ONNX Runtime has hardly any bfloat16 operator for CPUs.

    Args:
        model: an ``onnx.ModelProto``; it is changed.
    """
    import onnx

    graph, casts = model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or math.prod(tensor.dims) < _SMALLEST_TENSOR:
            continue
        values = torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        name, dims = tensor.name, list(tensor.dims)
        tensor.Clear()
        tensor.name, tensor.data_type = f"{name}_bf16", onnx.TensorProto.BFLOAT16
        tensor.dims.extend(dims)
        tensor.raw_data = values.to(torch.bfloat16).view(torch.int16).numpy().tobytes()
        to = onnx.TensorProto.FLOAT
        cast_name = f"{name}_cast"
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], cast_name, to=to))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


# ---- 8-bit integers, with ONNX Runtime's tools


def quantize(model: Any, inputs: Sequence[str], batches: Iterable[Example]) -> Any:
    """Quantize the weights and activations of convolutions and linear layers.

    Weights have one scale per channel, activations one per tensor: the smallest and largest values
    in ``batches`` are its range. Weights use 7 of the 8 bits (``reduce_range``): processors without
    VNNI add products in 16 bits; with 8-bit weights the sums overflow and the results differ.
    The class and box heads stay in float32.

    Args:
        model: an ``onnx.ModelProto`` with float32 weights.
        batches: inputs for calibration.

    Returns:
        An ``onnx.ModelProto`` with QuantizeLinear and DequantizeLinear operators.
    """
    import onnx
    from onnxruntime import quantization

    with tempfile.TemporaryDirectory() as folder, quiet():
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        _save_fused(model, source)
        quantization.quantize_static(
            source,
            target,
            _reader(inputs, batches),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(_OPERATORS),
            nodes_to_exclude=_not_quantized(onnx.load(source).graph),
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        quantized: Any = onnx.load(target)
    onnx.helper.set_model_props(quantized, {p.key: p.value for p in model.metadata_props})
    return quantized


def _save_fused(model: Any, path: Path) -> None:
    """Save a model with its batch norms fused into the convolutions before them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    content = model.SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _not_quantized(graph: Any) -> list[str]:
    """Names of the products of two activations (attention), and of the layers of the heads."""
    weights = {tensor.name for tensor in graph.initializer}
    heads = _after_last_norm(graph)
    return [
        node.name
        for node in graph.node
        if node.op_type in _LINEAR and (node.name in heads or node.input[1] not in weights)
    ]


def _after_last_norm(graph: Any) -> set[str]:
    """Names of the nodes on a path without layer normalization to an output of the graph."""
    made_by = {name: node for node in graph.node for name in node.output}
    pending = [output.name for output in graph.output]
    found: set[str] = set()
    while pending:
        node = made_by.get(pending.pop())
        if node is None or node.op_type == "LayerNormalization" or node.name in found:
            continue
        found.add(node.name)
        pending.extend(node.input)
    return found


def _reader(inputs: Sequence[str], batches: Iterable[Example]) -> Any:
    """The batches as a calibration data reader of ONNX Runtime."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Iterates over the batches once."""

        def __init__(self) -> None:
            self.feeds = (
                {name: value.numpy() for name, value in zip(inputs, batch, strict=True)}
                for batch in batches
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            """Inputs of the next batch by name; None at the end."""
            return next(self.feeds, None)

    return Reader()
