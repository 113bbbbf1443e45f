"""Packed convolutions and linear layers against PyTorch's, for all layouts, sizes and epilogues."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.fast.packed_layers import PackedConv, PackedLinear

# channels in, channels out, kernel, stride, dilation, groups
CONVOLUTIONS = [
    (3, 8, 7, 2, 1, 1),
    (8, 8, 3, 1, 1, 1),
    (8, 16, 3, 2, 1, 1),
    (8, 8, 3, 1, 2, 1),
    (8, 8, 3, 1, 1, 4),
    (8, 16, 1, 1, 1, 1),
    (8, 16, 1, 2, 1, 1),
    (8, 16, 1, 1, 1, 2),
    (1, 4, 3, 1, 1, 1),
]
SIZES = [(1, 1, 1), (2, 1, 1), (1, 1, 5), (1, 5, 1), (3, 7, 9)]  # batch size, height, width
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.05)],
)
@pytest.mark.parametrize("shape", CONVOLUTIONS)
@torch.inference_mode()
def test_convolutions(shape, dtype, tolerance, relu):
    inputs, outputs, kernel, stride, dilation, groups = shape
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    padding = kernel // 2 * dilation
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups).double()
    packed = PackedConv(conv)
    for size in SIZES:
        x = torch.randn(size[0], inputs, *size[1:], generator=generator, dtype=torch.float64)
        for layout in LAYOUTS:
            y = conv(x)
            residual = torch.randn(y.shape, generator=generator, dtype=torch.float64)
            for added in (None, residual):
                expected = y if added is None else y + added
                expected = expected.relu() if relu else expected
                added = None if added is None else added.to(dtype).contiguous(memory_format=layout)
                found = packed(x.to(dtype).contiguous(memory_format=layout), added, relu)
                assert found.dtype == dtype
                assert (found - expected).abs().max() < tolerance


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_linear_layers(dtype):
    torch.manual_seed(0)
    linear, x = nn.Linear(6, 5).double(), torch.randn(2, 3, 6, dtype=torch.float64)
    packed = PackedLinear(linear.weight, linear.bias)
    residual = torch.randn(3, 2, 5, dtype=torch.float64).transpose(0, 1)  # not contiguous
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    expected = {"relu": F.relu(linear(x)), "residual": linear(x) + residual, "": linear(x)}
    found = {
        "relu": packed(x.to(dtype), relu=True),
        "residual": packed(x.to(dtype), residual.to(dtype)),
        "": packed(x.to(dtype)),
    }
    for name, value in found.items():
        assert value.dtype == dtype
        assert (value - expected[name]).abs().max() < tolerance


def test_a_residual_of_another_precision_keeps_it():
    linear = nn.Linear(6, 5)
    x, residual = torch.randn(2, 6), torch.randn(2, 5)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = PackedLinear(linear.weight, linear.bias)(x, residual)
    assert found.dtype == torch.float32
    assert (found - linear(x) - residual).abs().max() < 0.05
