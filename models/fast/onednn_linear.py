"""Linear layers in float32 through oneDNN, for training on AMD's processors.

PyTorch multiplies float32 matrices with Intel's MKL. On AMD's processors MKL reaches about half of
the speed of oneDNN, which PyTorch uses for convolutions (``benchmarks/RESULTS.md``). Results differ
in rounding only.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from .attention import Attention, has_usual_inputs
from .replacement import replace_modules

# With fewer multiplications, the Python functions take longer than oneDNN saves.
_MIN_MULTIPLICATIONS = 2**23


class _Product(torch.autograd.Function):
    """``a @ b.T + bias`` for matrices; can be differentiated any number of times."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``a @ b.T + bias``, (M, N) for ``a`` (M, K) and ``b`` (N, K)."""
        ctx.save_for_backward(a, b)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
        return product

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of ``a``, ``b`` and ``bias``."""
        (grad,), (a, b) = grads, ctx.saved_tensors
        for_a, for_b, for_bias = ctx.needs_input_grad
        return (
            _Product.apply(grad, b.t(), None) if for_a else None,
            _Product.apply(grad.t(), a.t(), None) if for_b else None,
            grad.sum(0) if for_bias else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear`, through oneDNN where that is faster.

    Small products, other devices and dtypes, mixed precision and compiled models use PyTorch's.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,).

    Returns:
        (..., out).
    """
    if torch.compiler.is_compiling():  # first: a condition on sizes would add a graph
        return F.linear(x, weight, bias)
    is_float32 = all(t is None or t.dtype == torch.float32 for t in (x, weight, bias))
    is_plain = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    is_large = x.numel() * len(weight) >= _MIN_MULTIPLICATIONS
    if not (is_float32 and is_plain and is_large):
        return F.linear(x, weight, bias)
    rows: Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), weight, bias)
    return rows.view(*x.shape[:-1], len(weight))


class OneDnnLinear(nn.Linear):
    """`torch.nn.Linear` through `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Multiply (..., in) to (..., out)."""
        return linear(input, self.weight, self.bias)


class OneDnnAttention(Attention):
    """`Attention` with projections through `linear`."""

    def _uses_own_kernel(self, query: Tensor, key: Tensor, padding_mask: Tensor | None) -> bool:
        is_float32 = query.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if is_float32 and has_usual_inputs(query, key, padding_mask):
            return True
        return super()._uses_own_kernel(query, key, padding_mask)

    def _project(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear(x, weight, bias)


_FASTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: OneDnnLinear,
    NonDynamicallyQuantizableLinear: OneDnnLinear,  # the last layer of an attention
    Attention: OneDnnAttention,
}


def use_onednn_linears(model: nn.Module) -> None:
    """Let linear layers and attention inside a model compute through oneDNN, in place.

    The modules are replaced; their names, parameters and hooks do not change.
    """
    replace_modules(model, lambda module: _FASTER.get(type(module)))


def is_onednn_faster() -> bool:
    """Whether this processor is AMD's and PyTorch has both libraries. Linux only."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()):
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
