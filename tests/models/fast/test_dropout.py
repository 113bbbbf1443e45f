"""Dropout with faster random numbers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.fast.attention import Attention, attend
from models.fast.dropout import FastDropout, dropout, use_fast_dropout

P = [0.1, 0.5, 0.9]


@pytest.mark.parametrize("p", P)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_share_and_scale(p, dtype):
    torch.manual_seed(0)
    y = dropout(torch.full((100, 1001), 2.0, dtype=dtype), p).float()
    assert abs((y == 0).float().mean() - p) < 0.005  # 3 standard deviations for p = 0.5
    assert torch.allclose(
        y[y != 0], torch.tensor(2 / (1 - p)), rtol=1e-4 if dtype == torch.float32 else 0.01
    )
    for lane in range(4):  # each of the four values from one random number
        assert abs((y.flatten()[lane::4] == 0).float().mean() - p) < 0.01


def test_neighbors_are_independent():
    torch.manual_seed(0)
    is_kept = dropout(torch.ones(100_000), 0.5) != 0
    for distance in range(1, 5):
        assert abs((is_kept[distance:] == is_kept[:-distance]).float().mean() - 0.5) < 0.01


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 3, 5)])
def test_shapes(shape):
    assert dropout(torch.ones(shape), 0.5).shape == shape


def test_extreme_probabilities():
    x = torch.randn(50)
    assert torch.equal(dropout(x, 0.0), x)
    assert torch.allclose(dropout(x, 1e-7), x, rtol=1e-6)
    assert torch.equal(dropout(x, 1.0), torch.zeros(50))


def test_gradients_use_the_mask_of_the_forward_pass():
    x = torch.ones(1000, requires_grad=True)
    y = dropout(x, 0.3)
    y.sum().backward()
    assert torch.equal(x.grad, y)


def test_random_state_of_pytorch():
    x, state = torch.ones(64), torch.get_rng_state()
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x, 0.5), first)
    assert torch.equal(dropout(x, 0.5), second)
    assert not torch.equal(first, second)


def test_layers_change_in_mixed_precision_only():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    use_fast_dropout(model)
    layer, x = model[1], torch.ones(64)
    assert type(layer) is FastDropout
    for is_mixed, compute in ((False, F.dropout), (True, dropout)):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            torch.manual_seed(0)
            found = layer(x)
            torch.manual_seed(0)
            assert torch.equal(found, compute(x, 0.5))
            assert torch.equal(layer.eval()(x), x)
            layer.train()


def test_attention_weights_are_dropped():
    torch.manual_seed(0)
    q, k = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 6, 8)
    v = torch.eye(6).expand(2, 4, 6, 6)  # the output is the weights
    is_attended_to = torch.arange(6) < torch.tensor([6, 4])[:, None, None, None]
    expected = F.scaled_dot_product_attention(q, k, v, is_attended_to)
    with torch.autocast("cpu", torch.bfloat16):
        weights = attend(q, k, v, is_attended_to, 0.5)
    is_kept = weights != 0
    assert torch.allclose(weights[is_kept], 2 * expected[is_kept], atol=1e-6)
    assert 0.4 < is_kept[0].float().mean() < 0.6
    assert not is_kept[1, ..., 4:].any()


def test_attention_to_padding_alone_is_finite():
    q = torch.randn(1, 1, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert attend(q, q, q, torch.zeros(1, 1, 1, 3, dtype=torch.bool), 0.5).isfinite().all()


def test_attention_in_training():
    torch.manual_seed(0)
    attention, x = Attention(16, 2, 0.5), torch.randn(7, 3, 16)
    with torch.autocast("cpu", torch.bfloat16):
        first, second = (attention(x, x, x, need_weights=False)[0] for _ in range(2))
        mean = torch.stack(
            [attention(x, x, x, need_weights=False)[0].float() for _ in range(400)]
        ).mean(0)
        expected = attention.eval()(x, x, x, need_weights=False)[0].float()
    assert not torch.equal(first, second)
    assert (mean - expected).abs().max() < 0.15
