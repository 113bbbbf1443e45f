"""Dropout with a faster random generator, for training in mixed precision on a CPU.

PyTorch draws one random number per value: with the default dropout of 0.1 this takes a fifth of a
bfloat16 training step (``benchmarks/RESULTS.md``). Here 64 random bits serve four values. Dropout
probabilities are rounded to multiples of 2^-16. The generator is PyTorch's, so that
``torch.manual_seed`` and saved generator states work as usual; the masks differ from PyTorch's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .replacement import replace_modules


def dropout(x: Tensor, p: float) -> Tensor:
    """Set values to 0 with probability ``p``, and divide the others by 1 - ``p``.

    Args:
        x: floating-point values of any shape, on a CPU.
        p: in [0, 1].

    Returns:
        same shape and dtype as ``x``.
    """
    kept = round((1 - p) * 2**16)  # kept share in units of 2^-16
    if not 0 < kept < 2**16 or torch.compiler.is_compiling():
        return F.dropout(x, p)
    bits = x.new_empty(x.numel() // 4 + 1, dtype=torch.int64).random_(-(2**63), None)
    is_kept = bits.view(torch.int16)[: x.numel()] < kept - 2**15
    return x * is_kept.view(x.shape).to(x.dtype).mul_(2**16 / kept)


class FastDropout(nn.Dropout):
    """`torch.nn.Dropout` through `dropout` in mixed precision on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Values of any shape."""
        is_mixed = input.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if is_mixed and self.training and not self.inplace:
            return dropout(input, self.p)
        return super().forward(input)


def use_fast_dropout(model: nn.Module) -> None:
    """Replace the dropout layers inside a model, in place."""
    replace_modules(model, lambda module: FastDropout if type(module) is nn.Dropout else None)
