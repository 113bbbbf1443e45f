"""Attention in mixed precision, against full precision and against PyTorch's own."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from models.attention import Attention


def mixed_precision():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def attention_inputs():
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(n, 2, 16, generator=generator) for n in (3, 5, 5))
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    return query, key, value, padding


def outputs_and_gradients(attention, precision):
    """Of every parameter, for a loss in a random direction."""
    *sequences, padding = attention_inputs()
    attention.zero_grad()
    with precision:
        found = attention(*sequences, padding, need_weights=False)[0]
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    (found.float() * direction).sum().backward()
    return [found.detach().float(), *(parameter.grad for parameter in attention.parameters())]


def test_mixed_precision_is_close_to_full_forward_and_backward():
    torch.manual_seed(0)
    attention = Attention(16, 4, 0.0)
    mixed = outputs_and_gradients(attention, mixed_precision())
    full = outputs_and_gradients(attention, nullcontext())
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
        ({}, {"attn_mask": torch.ones(3, 5).triu(1).bool()}),
        ({}, {"need_weights": True, "average_attn_weights": False}),
    ],
    ids=["double", "single", "float mask", "short mask", "causal", "attention mask", "weights"],
)
def test_mixed_precision_leaves_to_pytorch_what_is_not_detr_s(changed, options):
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
