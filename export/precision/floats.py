"""Convert the graph of an ONNX file to 16-bit floats."""

import math
from typing import Any

import torch

DTYPES = ("fp32", "fp16", "bf16")
_SMALLEST_TENSOR = 64  # elements; smaller constants stay in float32


def convert_to_fp16(model: Any) -> Any:
    """Convert weights and computation to float16; floating-point inputs and outputs stay float32.

    Args:
        model: an ``onnx.ModelProto``.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    converted: Any = convert_float_to_float16(model, keep_io_types=True)
    _remove_repeated_casts(converted.graph)
    OnnxModel(converted).topological_sort()  # the converter appends the casts of the inputs
    return converted


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
