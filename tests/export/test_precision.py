"""ONNX files with 16-bit floats and 8-bit integers, in ONNX Runtime."""

import collections

import pytest
import torch

from export.check import compare, padded_batches
from export.onnx import load, save
from export.precision import convert_to_fp16, quantize, store_as_bf16
from export.wrapper import INPUTS, ExportWrapper

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

BATCHES = list(padded_batches([(70, 133), (64, 96)], [1, 2]))


@pytest.mark.parametrize(
    ("convert", "dtype", "tolerance"),
    [(convert_to_fp16, "FLOAT16", 0.02), (store_as_bf16, "BFLOAT16", 0.05)],
)
def test_16_bit_floats(onnx_export, tmp_path, convert, dtype, tolerance):
    model, path = onnx_export
    converted = convert(onnx.load(path))
    save(converted, tmp_path / "f.onnx")
    onnx.checker.check_model(tmp_path / "f.onnx")
    assert (tmp_path / "f.onnx").stat().st_size < 0.75 * path.stat().st_size
    kind = getattr(onnx.TensorProto, dtype)
    large = [t for t in converted.graph.initializer if torch.Size(t.dims).numel() > 1000]
    assert len(large) > 20 and all(tensor.data_type == kind for tensor in large)
    wrapper, exported = ExportWrapper(model).eval(), load(tmp_path / "f.onnx")
    for batch in BATCHES:
        assert exported(*batch)["scores"].dtype == torch.float32
        assert 0 < compare(wrapper, exported, *batch).largest() < tolerance


@pytest.fixture(scope="module")
def quantized(onnx_export, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "f.onnx"
    save(quantize(onnx.load(onnx_export[1]), INPUTS, BATCHES), path)
    return path


def test_8_bit_integers(onnx_export, quantized):
    model, path = onnx_export
    assert quantized.stat().st_size < 0.75 * path.stat().st_size
    wrapper, exported = ExportWrapper(model).eval(), load(quantized)
    for batch in BATCHES:
        assert 0 < compare(wrapper, exported, *batch).largest() < 0.3


def test_heads_and_attention_are_not_quantized(quantized):
    """There are 3 attentions with 2 products each, and 4 linear layers in the heads."""
    graph = onnx.load(quantized).graph
    made_by = {name: node for node in graph.node for name in node.output}
    counts = collections.Counter()
    for node in graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            before = made_by.get(node.input[0])
            is_int8 = before is not None and before.op_type == "DequantizeLinear"
            counts[node.op_type == "Conv", is_int8] += 1
    assert counts == {(True, True): 29, (False, True): 17, (False, False): 3 * 2 + 4}


def test_metadata_is_kept(onnx_export, quantized):
    before, after = (
        {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        for path in (onnx_export[1], quantized)
    )
    assert before.items() <= after.items()
