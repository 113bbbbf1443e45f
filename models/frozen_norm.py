"""Batch norm with frozen statistics and affine parameters."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _FrozenBatchNorm(torch.autograd.Function):
    """`torch.nn.functional.batch_norm` in evaluation mode; does not save its input for backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> Tensor:
        """Normalize ``x`` (B, C, H, W) with the statistics and parameters (C,)."""
        ctx.save_for_backward(var, weight)
        ctx.eps = eps
        return F.batch_norm(x, mean, var, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of ``x``; the other inputs get none."""
        var, weight = ctx.saved_tensors
        zero = torch.zeros_like(weight)
        return F.batch_norm(grad, zero, var, weight, zero, eps=ctx.eps), *[None] * 5


class FrozenBatchNorm2d(nn.Module):
    """`torch.nn.BatchNorm2d` with frozen statistics and affine parameters, stored as buffers.

    Detection batches are too small for reliable statistics, so the pretrained statistics are kept.
    State-dict keys: as in `torch.nn.BatchNorm2d`, without ``num_batches_tracked``.

    Args:
        num_features: number of channels.

    Source: DETR paper, appendix A.4 ("batch normalization weights and statistics are frozen").
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int):
        super().__init__()
        self.eps = 1e-5
        for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            self.register_buffer(name, torch.full((num_features,), float(value)))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, C, H, W) per channel; the result has the dtype of ``x``."""
        if x.dtype == torch.bfloat16 or x.dtype == torch.float16:
            return self._forward_low_precision(x)
        scale, shift = self.scale_and_shift()
        # One scale and one shift per channel: two passes over the feature map, not four.
        return x * scale.to(x.dtype).view(1, -1, 1, 1) + shift.to(x.dtype).view(1, -1, 1, 1)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Scale and shift of each channel, both (C,): the norm is ``x * scale + shift``."""
        mean, var, weight, bias = self._buffers_in_float32()
        scale = weight * (var + self.eps).rsqrt()
        return scale, bias - mean * scale

    def _forward_low_precision(self, x: Tensor) -> Tensor:
        """Compute in float32, in one pass over the feature map."""
        mean, var, weight, bias = self._buffers_in_float32()
        if torch.jit.is_scripting() or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return F.batch_norm(x, mean, var, weight, bias, eps=self.eps)
        out: Tensor = _FrozenBatchNorm.apply(x, mean, var, weight, bias, self.eps)
        return out

    def _buffers_in_float32(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean, variance, weight and bias; float64 stays float64."""
        buffers = (self.running_mean, self.running_var, self.weight, self.bias)
        if self.weight.dtype == torch.float64:
            return buffers
        mean, var, weight, bias = buffers
        return mean.float(), var.float(), weight.float(), bias.float()
