"""Cross-attention with content and position apart."""

import math

import pytest
import torch

from models.anchor.decoder import ConditionalAttention

PADDING = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])


def build(dropout=0.0):
    torch.manual_seed(0)
    return ConditionalAttention(12, 3, dropout).double()


def inputs():
    torch.manual_seed(1)
    shapes = ((4, 2, 12), (4, 2, 12), (5, 2, 12), (5, 2, 12))
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


@torch.no_grad()
def naive_attention(layer, query, query_position, key, key_position, padding):
    """Loops over images, heads, queries and positions."""
    output = torch.zeros_like(query)
    weights = torch.zeros(query.shape[1], 3, len(query), len(key), dtype=query.dtype)
    cq, pq = layer.query_content(query), layer.query_position(query_position)
    ck, pk, v = (
        layer.key_content(key),
        layer.key_position(key_position),
        layer.value(key + key_position),
    )
    for image in range(query.shape[1]):
        for head in range(3):
            part = slice(4 * head, 4 * head + 4)
            for i in range(len(query)):
                scores = [
                    float(cq[i, image, part] @ ck[j, image, part])
                    + float(pq[i, image, part] @ pk[j, image, part])
                    for j in range(len(key))
                ]
                exps = [
                    0 if padding[image, j] else math.exp(score / math.sqrt(8))
                    for j, score in enumerate(scores)
                ]
                for j, value in enumerate(exps):
                    weights[image, head, i, j] = value / sum(exps)
                    output[i, image, part] += value / sum(exps) * v[j, image, part]
    return layer.out_proj(output), weights


@pytest.mark.parametrize("need_weights", [False, True])
def test_equals_naive_loops(need_weights):
    layer, tensors = build(), inputs()
    output, weights = layer(
        *tensors, PADDING, need_weights=need_weights, average_attn_weights=False
    )
    expected, expected_weights = naive_attention(layer, *tensors, PADDING)
    assert torch.allclose(output, expected)
    assert (weights is None) == (not need_weights)
    if weights is not None:
        assert torch.allclose(weights, expected_weights)


def test_averaged_weights():
    layer, tensors = build(), inputs()
    mean = layer(*tensors, PADDING, need_weights=True)[1]
    per_head = layer(*tensors, PADDING, need_weights=True, average_attn_weights=False)[1]
    assert torch.allclose(mean, per_head.mean(1))


def test_dropout_only_in_training():
    layer, tensors = build(dropout=0.5), inputs()
    assert not torch.equal(layer(*tensors)[0], layer(*tensors)[0])
    layer.eval()
    assert torch.equal(layer(*tensors)[0], layer(*tensors)[0])


def test_weights_are_computed_for_hooks_that_read_them():
    layer = build()
    assert not layer.has_weight_hooks()
    handle = layer.register_forward_hook(lambda *args: None, needs_weights=False)
    assert not layer.has_weight_hooks()
    handle.remove()
    layer.register_forward_hook(lambda *args: None)
    assert layer.has_weight_hooks()
