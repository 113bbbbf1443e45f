"""Quantize an ONNX file to 8-bit integers, with ONNX Runtime's tools."""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.quiet import quiet
from export.wrapper import Example

# Linear layers and convolutions. Normalization, softmax and everything else stay in float32.
_LINEAR = ("MatMul", "Gemm")
_OPERATORS = ("Conv", *_LINEAR)


def quantize(model: Any, inputs: Sequence[str], batches: Iterable[Example]) -> Any:
    """Quantize the weights and activations of convolutions and linear layers.

    Weights have one scale per channel, activations one per tensor: the smallest and largest values
    in ``batches`` are its range. Weights use 7 of the 8 bits (``reduce_range``): processors without
    VNNI add products in 16 bits, which overflow with 8, and would give other results.
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
            named = (zip(inputs, batch, strict=True) for batch in batches)
            self.feeds = ({name: value.numpy() for name, value in one} for one in named)

        def get_next(self) -> dict[str, np.ndarray] | None:
            """Inputs of the next batch by name; None at the end."""
            return next(self.feeds, None)

    return Reader()
