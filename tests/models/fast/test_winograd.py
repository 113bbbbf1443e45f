"""Winograd convolutions against PyTorch's in float64."""

import pytest
import torch
from torch import nn

from models.fast import winograd
from models.fast.packed_layers import PackedConv
from models.fast.winograd import WinogradConv

# batch size, channels in, channels out, height, width
SHAPES = [(1, 5, 3, 4, 4), (2, 3, 4, 9, 14), (3, 4, 4, 1, 1), (7, 2, 3, 6, 5), (1, 4, 2, 25, 3)]


@pytest.mark.parametrize("values_at_once", [1, 36 * 20, 36 * 2**15])  # rows, images or all at once
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_a_direct_convolution(monkeypatch, shape, with_bias, values_at_once):
    monkeypatch.setattr(winograd, "_VALUES_AT_ONCE", values_at_once)
    batch_size, channels, outputs, height, width = shape
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, outputs, 3, padding=1, bias=with_bias)
    x = torch.randn(batch_size, channels, height, width)
    residual = torch.randn(batch_size, outputs, height, width)
    with torch.no_grad():
        fast = WinogradConv(conv.weight, conv.bias)
        found = fast(x, None, relu=False), fast(x, residual, relu=True)
        expected = conv.double()(x.double())
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert (found[0] - expected).abs().max() < 1e-5 * expected.abs().max()
    expected = (expected + residual).relu()
    assert (found[1] - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("changes", "is_supported"),
    [
        ({}, True),
        ({"stride": 2}, False),
        ({"dilation": 2, "padding": 2}, False),
        ({"padding": 0}, False),
        ({"groups": 2}, False),
        ({"kernel_size": 5}, False),
        ({"in_channels": 64}, False),
        ({"out_channels": 64}, False),
    ],
)
def test_supported_convolutions(changes, is_supported):
    options = {"in_channels": 128, "out_channels": 128, "kernel_size": 3, "padding": 1} | changes
    assert WinogradConv.supports(nn.Conv2d(**options)) is is_supported


@pytest.mark.parametrize(
    ("shape", "pays"),
    [
        ((1, 128, 16, 16), True),
        ((16, 128, 4, 4), True),
        ((1, 128, 12, 16), False),  # 12 tiles
        ((9, 128, 5, 5), False),  # 25 of 64 outputs of the tiles are needed
    ],
)
def test_sizes_that_pay(shape, pays):
    assert WinogradConv.is_faster_for(torch.empty(shape)) is pays
    assert not WinogradConv.is_faster_for(torch.empty(shape, dtype=torch.bfloat16))


def test_packed_convolutions_use_it_in_float32(monkeypatch):
    calls = []
    direct = WinogradConv.__call__
    monkeypatch.setattr(
        WinogradConv, "__call__", lambda *args: calls.append(args[1].dtype) or direct(*args)
    )
    torch.manual_seed(0)
    conv = nn.Conv2d(128, 128, 3, padding=1)
    x = torch.randn(1, 128, 16, 16)
    with torch.inference_mode():
        packed = PackedConv(conv)
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            found = packed(x.to(dtype), relu=True)
            tolerance = 0.05 if dtype == torch.bfloat16 else 5e-5
            assert (found - conv(x).relu()).abs().max() < tolerance
    assert calls == [torch.float32]
