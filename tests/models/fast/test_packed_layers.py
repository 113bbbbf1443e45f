"""Packed convolutions and linear layers against PyTorch's, for all layouts, sizes and epilogues."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.fast import packed_layers
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


@pytest.fixture
def packed_shapes(monkeypatch):
    """Shapes of the inputs for which weights of convolutions are packed."""
    shapes = []

    class Recorded:
        def _reorder_convolution_weight(self, *args):
            shapes.append(tuple(args[-1]))
            return torch.ops.mkldnn._reorder_convolution_weight(*args)

        def __getattr__(self, name):
            return getattr(torch.ops.mkldnn, name)

    monkeypatch.setattr(packed_layers, "_onednn", Recorded())
    return shapes


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 2)])
@pytest.mark.parametrize("has_avx512", [False, True])
@torch.inference_mode()
def test_weights_are_packed_for_the_last_shape(
    has_avx512, kernel, stride, packed_shapes, monkeypatch
):
    monkeypatch.setattr(packed_layers, "_has_avx512", lambda: has_avx512)
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, kernel, stride, kernel // 2)
    packed = PackedConv(conv)
    for height in (5, 5, 9, 5):
        x = torch.randn(2, 8, height, 7)
        assert (packed(x) - conv(x)).abs().max() < 1e-5
    if has_avx512 and kernel > 1:  # the same layout for all shapes
        assert packed_shapes == [(1, 8, 64, 64)]
    else:
        assert packed_shapes == [(2, 8, 5, 7), (2, 8, 9, 7), (2, 8, 5, 7)]


@pytest.mark.parametrize("has_avx512", [False, True])
def test_weights_are_packed_for_the_last_dtype(has_avx512, monkeypatch):
    """Without packing, which needs a processor with bfloat16."""
    packings = []

    class Recorded:
        def _reorder_convolution_weight(self, weight, *geometry_and_shape):
            packings.append((weight.dtype, tuple(geometry_and_shape[-1])))
            return weight

    monkeypatch.setattr(packed_layers, "_onednn", Recorded())
    monkeypatch.setattr(packed_layers, "_has_avx512", lambda: has_avx512)
    conv = nn.Conv2d(8, 4, 3, padding=1)
    packed = PackedConv(conv)
    half, full = torch.bfloat16, torch.float32
    for dtype, height in ((full, 5), (half, 5), (half, 5), (half, 9), (full, 9)):
        weight, bias = packed._packed_for(torch.zeros(2, 8, height, 7, dtype=dtype))
        assert weight.dtype == bias.dtype == dtype
        assert torch.equal(weight, conv.weight.to(dtype))
    shapes = [(1, 8, 64, 64)] * 2 if has_avx512 else [(2, 8, 5, 7), (2, 8, 9, 7)]
    first, second = shapes
    again = [] if has_avx512 else [(half, second)]  # another shape
    assert packings == [(full, first), (half, first), *again, (full, second)]


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
