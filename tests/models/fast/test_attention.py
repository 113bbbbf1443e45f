"""Attention: mixed precision against full precision and PyTorch's own, and hooks on weights."""

import copy
import io
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from models.fast.attention import Attention


def mixed_precision():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def attention_inputs():
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(n, 2, 16, generator=generator) for n in (3, 5, 5))
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    return query, key, value, padding


def outputs_and_gradients(attention, precision, attn_mask=None):
    """Of every parameter, for a loss in a random direction."""
    *sequences, padding = attention_inputs()
    attention.zero_grad()
    with precision:
        found = attention(*sequences, padding, need_weights=False, attn_mask=attn_mask)[0]
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    (found.float() * direction).sum().backward()
    return [found.detach().float(), *(parameter.grad for parameter in attention.parameters())]


ATTENTION_MASK = torch.ones(3, 5).triu(1).bool()


@pytest.mark.parametrize("mask", [None, ATTENTION_MASK], ids=["all", "attention mask"])
def test_mixed_precision_is_close_to_full_forward_and_backward(mask, monkeypatch):
    torch.manual_seed(0)
    attention = Attention(16, 4, 0.0)
    full = outputs_and_gradients(attention, nullcontext(), mask)
    monkeypatch.setattr(F, "multi_head_attention_forward", None)  # not PyTorch's kernel
    mixed = outputs_and_gradients(attention, mixed_precision(), mask)
    for found, expected in zip(mixed, full, strict=True):
        assert (found - expected).norm() <= 0.03 * expected.norm()


@pytest.mark.parametrize(
    ("changed", "options"),
    [
        ({"query_key_value": lambda x: x.double()}, {}),
        ({"query_key_value": lambda x: x[:, 0], "padding": lambda x: x[0]}, {}),
        ({"padding": lambda x: torch.zeros(x.shape).masked_fill(x, float("-inf"))}, {}),
        ({"padding": lambda x: x[:, :1]}, {}),
        ({}, {"is_causal": True}),
        ({"padding": lambda x: None}, {"attn_mask": ATTENTION_MASK.float()}),
        ({}, {"need_weights": True, "average_attn_weights": False}),
    ],
    ids=[
        "double",
        "single",
        "float mask",
        "short mask",
        "causal",
        "float attention mask",
        "weights",
    ],
)
def test_other_inputs_use_pytorch_in_mixed_precision(changed, options):
    torch.manual_seed(0)
    attention, stock = Attention(16, 4, 0.0), nn.MultiheadAttention(16, 4)
    stock.load_state_dict(attention.state_dict())
    *sequences, padding = attention_inputs()
    sequences = [changed.get("query_key_value", lambda x: x)(x) for x in sequences]
    padding = changed.get("padding", lambda x: x)(padding)

    def answer(module):
        module.to(sequences[0].dtype)
        try:
            with mixed_precision():
                return module(*sequences, padding, **{"need_weights": False, **options})
        except (AssertionError, RuntimeError) as error:
            return str(error)

    found, expected = answer(attention), answer(stock)
    if isinstance(expected, str):
        assert found == expected
    else:
        assert torch.equal(found[0], expected[0])
        assert (found[1] is None) == (not options.get("need_weights"))
        assert found[1] is None or torch.equal(found[1], expected[1])


# ---- hooks


class Layer(nn.Module):
    """Calls attention as the layers of the transformer do."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.attention = Attention(16, 4, dropout)

    def forward(self, *inputs):
        return self.attention(*inputs, need_weights=self.attention.has_weight_hooks())[0]


class KeepWeights:
    """A forward hook that keeps the weights of an attention; `pickle` can save it."""

    def __init__(self):
        self.weights = []

    def __call__(self, module, inputs, output):
        if isinstance(module, Attention):
            self.weights.append(output[1])


def weights_of_a_call(layer, hook):
    hook.weights.clear()
    layer(*attention_inputs())
    return hook.weights[0] if hook.weights else None


@pytest.mark.parametrize("register", ["own", "global"])
def test_weights_are_computed_while_a_hook_reads_them(register):
    layer, hook = Layer(), KeepWeights()
    handle = {
        "own": lambda: layer.attention.register_forward_hook(hook),
        "global": lambda: register_module_forward_hook(hook),
    }[register]()
    try:
        weights = weights_of_a_call(layer, hook)
        assert weights.shape == (2, 3, 5)
        assert torch.allclose(weights.sum(-1), torch.ones(2, 3))
    finally:
        handle.remove()
    other = KeepWeights()
    layer.attention.register_forward_hook(other, needs_weights=False)
    layer(*attention_inputs())
    assert other.weights == [None]


@pytest.mark.parametrize("needs_weights", [True, False])
def test_hooks_have_the_options_of_pytorch(needs_weights):
    layer, order = Layer(), []
    options = {"needs_weights": needs_weights}
    layer.attention.register_forward_hook(lambda *event: order.append("second"), **options)
    layer.attention.register_forward_hook(
        lambda module, args, kwargs, output: order.append(kwargs["need_weights"]),
        prepend=True,
        with_kwargs=True,
        **options,
    )
    layer(*attention_inputs())
    assert order == [needs_weights, "second"]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("precision", [nullcontext, mixed_precision])
def test_a_hook_that_needs_no_weights_leaves_the_same_bits(precision, dropout):
    torch.manual_seed(0)
    layer, hook = Layer(dropout), KeepWeights()

    def output():
        torch.manual_seed(1)
        with precision():
            return layer(*attention_inputs())

    expected = output()
    handle = layer.attention.register_forward_hook(hook, needs_weights=False)
    assert torch.equal(output(), expected) and hook.weights == [None]
    layer.attention.register_forward_hook(KeepWeights())
    output()
    assert hook.weights[1] is not None
    handle.remove()


@pytest.mark.parametrize("needs_weights", [True, False])
def test_copies_and_files_keep_hooks_as_they_are(needs_weights):
    layer = Layer()
    layer.attention.register_forward_hook(KeepWeights(), needs_weights=needs_weights)
    saved = io.BytesIO()
    torch.save(layer, saved)
    saved.seek(0)
    for other in (copy.deepcopy(layer), torch.load(saved, weights_only=False)):
        (hook,) = other.attention._forward_hooks.values()
        assert (weights_of_a_call(other, hook) is not None) == needs_weights
