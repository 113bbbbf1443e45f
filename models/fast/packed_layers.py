"""Inference-only convolutions and linear layers with prepacked oneDNN weights.

On a CPU oneDNN's kernels also compute ReLU and residual addition, without another pass over the
feature map. They have no backward pass. On other devices and in float64 PyTorch's functions compute
the same from the same weights.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from util.tensor_ops import at_least_float32

from .winograd import WinogradConv

_onednn = torch.ops.mkldnn  # some builds lack some of its operators: look them up when called
# oneDNN chooses the layout of a convolution's weights for the shape of the input. It converts
# weights from another packed layout in each call, slowly: up to 0.5 s for one layer. With AVX-512
# the layout for kernels larger than 1 x 1 is the same for all shapes; without AVX-512 it is not.
_TYPICAL_HW = (64, 64)


class PackedLinear:
    """A linear layer, optionally followed by a residual addition or by ReLU.

    Args:
        weight: (out, in).
        bias: (out,) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self._plain = _Weights(weight, bias)
        self._packed = _Weights(weight, bias, lambda w: _onednn._reorder_linear_weight(w))

    def __call__(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """Multiply (..., in) to (..., out).

        Args:
            residual: (..., out), added to the result; only without ``relu``.
            relu: apply ReLU.
        """
        dtype = _computing_dtype(x)
        x = x.to(dtype)
        if not _runs_onednn(x):
            y = F.linear(x, *self._plain(dtype))
            y = y if residual is None else y + residual
            return y.relu_() if relu else y
        weights = self._packed(dtype)
        if residual is None:
            return _onednn._linear_pointwise(x, *weights, "relu" if relu else "none", [], "")
        if residual.dtype == dtype:
            return _onednn._linear_pointwise.binary(x, residual.contiguous(), *weights, "add")
        return _onednn._linear_pointwise(x, *weights, "none", [], "") + residual


class PackedConv:
    """A convolution with the batch norm after it, optionally plus a residual, then ReLU.

    Args:
        conv: convolution with zero padding.
        norm: frozen or evaluation-mode batch norm, folded into the weights; None: no norm.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module | None = None):
        weight, bias = _fold(conv, norm)
        weight = weight.contiguous(memory_format=torch.channels_last)
        self._geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self._plain = _Weights(weight, bias)
        self._is_layout_fixed = _has_avx512() and max(conv.kernel_size) > 1
        self._has_winograd = WinogradConv.supports(conv)
        self._packed: tuple[Any, tuple[Tensor, Tensor | None]] = None, (weight, bias)
        self._linear = None
        if self._geometry == ((0, 0), (1, 1), (1, 1), 1) and max(conv.kernel_size) == 1:
            self._linear = PackedLinear(weight.flatten(1), bias)

    def __call__(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """Convolve (B, C, H, W) to (B, out_channels, H', W'), in channels-last layout.

        Args:
            residual: (B, out_channels, H', W'), added before ReLU; it is overwritten.
            relu: apply ReLU.
        """
        dtype = _computing_dtype(x)
        x = _channels_last(x.to(dtype))
        if not _runs_onednn(x):
            return self._convolve(x, residual, relu)
        if self._linear is not None and residual is None:
            return self._linear(x.permute(0, 2, 3, 1), relu=relu).permute(0, 3, 1, 2)
        if self._has_winograd and WinogradConv.is_faster_for(x):
            return self._winograd(x, residual, relu)
        weights = (*self._packed_for(x), *self._geometry)
        if residual is None:
            unary = "relu" if relu else "none"
            return _onednn._convolution_pointwise(x, *weights, unary, [], "")
        residual = _channels_last(residual.to(dtype))
        options: tuple[Any, ...] = ("add", 1, "relu" if relu else None, [], "")
        return _onednn._convolution_pointwise_.binary(residual, x, *weights, *options)

    @cached_property
    def _winograd(self) -> WinogradConv:
        return WinogradConv(*self._plain(torch.float32))

    def _packed_for(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias, packed for the shape of ``x``; cached for the last shape.

        Unpacked weights would be converted in every call, which takes as long as packing them.
        """
        shape = (1, x.shape[1], *_TYPICAL_HW) if self._is_layout_fixed else tuple(x.shape)
        key, packed = self._packed
        if key != (x.dtype, shape):
            weight, bias = self._plain(x.dtype)
            weight = _onednn._reorder_convolution_weight(weight, *self._geometry, shape)
            self._packed = (x.dtype, shape), (weight, bias)
            return weight, bias
        return packed

    def _convolve(self, x: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
        padding, stride, dilation, groups = self._geometry
        y = F.conv2d(x, *self._plain(x.dtype), stride, padding, dilation, groups)
        y = y if residual is None else residual.add_(y)
        return y.relu_() if relu else y


class _Weights:
    """Weight and bias by dtype, converted and packed on first use."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, pack: Callable[[Tensor], Tensor] | None = None
    ):
        self._weight, self._bias, self._pack = weight, bias, pack
        self._by_dtype: dict[torch.dtype, tuple[Tensor, Tensor | None]] = {}

    def __call__(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        if dtype not in self._by_dtype:
            weight = self._weight.to(dtype)
            bias = None if self._bias is None else self._bias.to(dtype)
            self._by_dtype[dtype] = weight if self._pack is None else self._pack(weight), bias
        return self._by_dtype[dtype]


def _has_avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _channels_last(x: Tensor) -> Tensor:
    """Convert (B, C, H, W) to channels-last layout, with its strides even if H = W = 1."""
    _, channels, height, width = x.shape
    if x.stride() == (channels * height * width, 1, channels * width, channels):
        return x
    return torch.empty_like(x, memory_format=torch.channels_last).copy_(x)


def _fold(conv: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution with its norm, computed in float32 or wider."""
    if norm is None:
        return conv.weight, conv.bias
    weight = at_least_float32(conv.weight)
    scale = (at_least_float32(norm.running_var) + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * at_least_float32(norm.weight)
    shift = -at_least_float32(norm.running_mean) * scale
    shift = shift if norm.bias is None else shift + at_least_float32(norm.bias)
    shift = shift if conv.bias is None else at_least_float32(conv.bias) * scale + shift
    dtype = conv.weight.dtype
    return (weight * scale.view(-1, 1, 1, 1)).to(dtype), shift.to(dtype)


def _computing_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which layers compute: the autocast dtype if enabled, else the dtype of ``x``."""
    device = x.device.type
    if x.dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def _runs_onednn(x: Tensor) -> bool:
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    is_bfloat16 = x.dtype == torch.bfloat16 and _onednn._is_mkldnn_bf16_supported()
    return is_bfloat16 or x.dtype == torch.float32
