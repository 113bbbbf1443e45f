"""Linear layers and attention through oneDNN: equal to PyTorch's up to rounding."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.fast import onednn_linear
from models.fast.attention import Attention
from models.fast.fused_transformer import FusedEncoderLayer, fuse_transformers
from models.fast.onednn_linear import (
    OneDnnAttention,
    OneDnnLinear,
    is_onednn_faster,
    linear,
    use_onednn_linears,
)
from models.transformer import Transformer, TransformerEncoderLayer

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch is built without oneDNN"
)


@pytest.fixture(autouse=True)
def products(monkeypatch):
    """Send products of all sizes through oneDNN; returns the list of their shapes."""
    monkeypatch.setattr(onednn_linear, "_MIN_MULTIPLICATIONS", 1)
    shapes, apply = [], onednn_linear._Product.apply

    def counted(a, b, bias):
        shapes.append((*a.shape, len(b)))
        return apply(a, b, bias)

    monkeypatch.setattr(onednn_linear._Product, "apply", counted)
    return shapes


def random(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator)


def result_and_gradients(function, *inputs):
    leaves = [x if x is None else x.clone().requires_grad_() for x in inputs]
    result = function(*leaves)
    (result * random(*result.shape).to(result)).sum().backward()
    return [result.detach(), *(x.grad for x in leaves if x is not None)]


def is_close(found, expected):
    return (found - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("shape", [(6,), (1, 6), (5, 6), (3, 2, 6), (2, 1, 3, 6)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_result_and_gradients_are_exact(shape, has_bias, products):
    inputs = random(*shape), random(4, 6), random(4) if has_bias else None
    found = result_and_gradients(linear, *inputs)
    expected = result_and_gradients(F.linear, *(x if x is None else x.double() for x in inputs))
    assert [x.shape for x in found] == [x.shape for x in expected]
    assert all(map(is_close, found, expected))
    assert len(products) == 3


def test_views_are_computed_like_copies():
    x, weight = random(2, 6, 5).permute(2, 0, 1), random(12, 4).t()[:, 3:9]
    assert is_close(linear(x, weight, None), F.linear(x.double(), weight.double()))


def test_only_gradients_that_are_needed_are_computed(products):
    x, weight = random(5, 6), random(4, 6).requires_grad_()
    linear(x, weight, random(4)).sum().backward()
    assert products == [(5, 6, 4), (4, 5, 6)]


def test_second_derivatives_are_exact():
    def norm_of_gradients(function, x, weight):
        out = function(x, weight, None).pow(2).sum()
        return torch.stack(
            [g.norm() for g in torch.autograd.grad(out, (x, weight), None, True, True)]
        )

    inputs = random(5, 6), random(4, 6)
    found = result_and_gradients(lambda *a: norm_of_gradients(linear, *a), *inputs)
    expected = result_and_gradients(
        lambda *a: norm_of_gradients(F.linear, *a), *(x.double() for x in inputs)
    )
    assert all(map(is_close, found, expected))


def test_other_inputs_use_pytorch(products, monkeypatch):
    assert linear(random(5, 6).double(), random(4, 6).double(), None).dtype == torch.float64
    assert linear(torch.zeros(0, 6), random(4, 6), random(4)).shape == (0, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(random(5, 6), random(4, 6), None).dtype == torch.bfloat16
    monkeypatch.setattr(onednn_linear, "_MIN_MULTIPLICATIONS", 5 * 6 * 4 + 1)
    linear(random(5, 6), random(4, 6), None)
    assert not products


def transformers(dropout):
    torch.manual_seed(0)
    plain = Transformer(16, 2, 2, 2, 32, dropout, return_intermediate_dec=True)
    prepared = copy.deepcopy(plain)
    use_onednn_linears(prepared)
    return plain, prepared


def outputs_and_gradients(transformer):
    padding = torch.zeros(2, 3, 4, dtype=torch.bool)
    padding[1, :, 2:] = True
    images, positions, queries = random(2, 16, 3, 4), random(2, 16, 3, 4) / 2, random(5, 16)
    torch.manual_seed(1)  # dropout
    outputs = transformer(images, padding, queries, positions)[0]
    transformer.zero_grad()
    (outputs * random(*outputs.shape)).sum().backward()
    return [outputs.detach(), *(parameter.grad for parameter in transformer.parameters())]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_transformers_are_equal_with_the_same_dropout(dropout, products):
    plain, prepared = transformers(dropout)
    expected, found = map(outputs_and_gradients, (plain, prepared))
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm() + 1e-6
    assert len(products) > 2 * 3 * (4 * 2 + 2 * 2)  # of each layer of encoder and decoder


def test_in_mixed_precision_nothing_changes(products):
    plain, prepared = transformers(0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = map(outputs_and_gradients, (plain, prepared))
    assert all(map(torch.equal, found, expected))
    assert not products


def test_one_compiled_graph_for_small_and_large_products(monkeypatch):
    monkeypatch.setattr(onednn_linear, "_MIN_MULTIPLICATIONS", 6 * 4 * 10)
    graphs, weight = [], random(4, 6)

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(lambda x: linear(x, weight, None), backend=backend, dynamic=True)
    for length in (5, 7, 20):
        assert is_close(compiled(random(length, 6)), F.linear(random(length, 6), weight))
    assert len(graphs) == 1


def test_modules_keep_names_hooks_and_parameters():
    _, model = transformers(0.1)
    plain, _ = transformers(0.1)
    calls = []
    attention = plain.encoder.layers[0].self_attn
    attention.register_forward_hook(lambda module, inputs, out: calls.append(out[1].shape))
    before = list(plain.named_parameters())
    use_onednn_linears(plain)
    assert all(a is b for (_, a), (_, b) in zip(plain.named_parameters(), before, strict=True))
    attention = plain.encoder.layers[0].self_attn
    assert type(attention) is OneDnnAttention and type(attention.out_proj) is OneDnnLinear
    assert not any(type(m) in (nn.Linear, Attention) for m in plain.modules())
    outputs_and_gradients(plain)
    assert calls == [(2, 12, 12)]
    copied = pickle.loads(pickle.dumps(model))
    for a, b in zip(outputs_and_gradients(copied), outputs_and_gradients(model), strict=True):
        assert torch.equal(a, b)


def test_layers_are_still_fused_for_inference():
    _, model = transformers(0.0)
    fuse_transformers(model.eval())
    layers = [m for m in model.modules() if isinstance(m, TransformerEncoderLayer)]
    assert all(isinstance(layer.forward.fast, FusedEncoderLayer) for layer in layers)


@pytest.mark.parametrize(
    ("vendor", "is_faster"), [("AuthenticAMD", True), ("GenuineIntel", False), (None, False)]
)
def test_the_vendor_of_the_processor_decides(vendor, is_faster, monkeypatch):
    def read_text(path):
        if vendor is None:
            raise FileNotFoundError
        return f"processor\t: 0\nvendor_id\t: {vendor}\n"

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert is_onednn_faster() == is_faster
