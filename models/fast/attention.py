"""Multi-head attention of the transformer layers, except the cross-attention of anchor queries.

Attention weights are computed only while a forward hook could read them. Without weights PyTorch
runs a fused kernel. Training in mixed precision on a CPU runs other kernels than PyTorch's:

- Without dropout, attention is computed in float32. PyTorch's bfloat16 kernel takes 1.1 to 4.6
  times as long (``benchmarks/RESULTS.md``).
- With dropout, scores and softmax are computed in float32 and the product with the values in the
  lower precision, with faster random numbers, see `dropout`.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.utils.hooks import RemovableHandle

from .dropout import dropout


class WeightHooks(nn.Module):
    """Base class of attention layers that compute weights only while a forward hook reads them."""

    def __init__(self) -> None:
        super().__init__()
        self._hooks_without_weights: set[int] = set()  # ids of the hooks' handles

    def register_forward_hook(
        self, hook: Callable[..., Any], *, needs_weights: bool = True, **options: Any
    ) -> RemovableHandle:
        """Register a forward hook, as in `torch.nn.Module`.

        Args:
            hook: receives ``(output, weights)`` of `forward` as its output.
            needs_weights: compute the attention weights while this hook is registered. With False
                the hook changes neither the kernel nor the rounding of the output, and may receive
                None instead of the weights.
            **options: ``prepend``, ``with_kwargs`` and ``always_call``.
        """
        handle = super().register_forward_hook(hook, **options)
        if not needs_weights:
            self._hooks_without_weights.add(handle.id)
        return handle

    def has_weight_hooks(self) -> bool:
        """Whether a registered forward hook reads the attention weights.

        Hooks on this module and hooks on all modules
        (`torch.nn.modules.module.register_module_forward_hook`) count.
        """
        if not torch.jit.is_scripting():
            own_hooks = self._forward_hooks.keys() - self._hooks_without_weights
            return len(own_hooks) > 0 or len(nn_module._global_forward_hooks) > 0
        return False


class Attention(nn.MultiheadAttention, WeightHooks):
    """`torch.nn.MultiheadAttention` with the same parameters and other kernels, see above.

    Args:
        embed_dim: number of channels.
        num_heads: number of attention heads.
        dropout: dropout probability of the attention weights.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float):
        super().__init__(embed_dim, num_heads, dropout=dropout)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute attention; arguments as in `torch.nn.MultiheadAttention`.

        Returns:
            output (L, B, C), and attention weights: (B, L, S), or (B, heads, L, S) without
            ``average_attn_weights``; None without ``need_weights``.
        """
        if not torch.jit.is_scripting():
            is_plain = not (need_weights or is_causal) and _is_usual_mask(attn_mask, query, key)
            if is_plain and self._uses_own_kernel(query, key, key_padding_mask):
                inputs = query, key, value
                return self._attend(inputs, key_padding_mask, attn_mask), None
        # The body of ``super().forward``; TorchScript cannot compile ``super``.
        return F.multi_head_attention_forward(
            query,
            key,
            value,
            self.embed_dim,
            self.num_heads,
            self.in_proj_weight,
            self.in_proj_bias,
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=self.dropout,
            out_proj_weight=self.out_proj.weight,
            out_proj_bias=self.out_proj.bias,
            training=self.training,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )

    def _uses_own_kernel(self, query: Tensor, key: Tensor, padding_mask: Tensor | None) -> bool:
        """Whether this is training in mixed precision on a CPU."""
        is_mixed = torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
        return is_mixed and has_usual_inputs(query, key, padding_mask)

    def _project(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x, weight, bias)

    def _attend(
        self,
        inputs: tuple[Tensor, Tensor, Tensor],
        padding_mask: Tensor | None,
        attn_mask: Tensor | None,
    ) -> Tensor:
        """Compute the projections in the autocast dtype, attention as in `attend`.

        Args:
            inputs: query (L, B, C), key (S, B, C) and value (S, B, C).
            padding_mask: (B, S) bool, True = padding.
            attn_mask: (L, S) bool, True = query (row) does not attend to key (column).

        Returns:
            output (L, B, C).
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            self._project(x, weight, bias).unflatten(2, (self.num_heads, -1)).permute(1, 2, 0, 3)
            for x, weight, bias in zip(inputs, weights, biases, strict=True)
        )  # (B, heads, L or S, C / heads)
        is_attended_to = None if padding_mask is None else ~padding_mask[:, None, None]
        if attn_mask is not None:
            is_attended_to = ~attn_mask if is_attended_to is None else is_attended_to & ~attn_mask
        heads = attend(q, k, v, is_attended_to, self.dropout if self.training else 0.0)
        return self.out_proj(heads.permute(2, 0, 1, 3).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor, is_attended_to: Tensor | None, p: float) -> Tensor:
    """Attention of each head on a CPU: in float32, or with dropout partly in the autocast dtype.

    Args:
        q: (B, heads, L, C).
        k: (B, heads, S, C).
        v: (B, heads, S, C').
        is_attended_to: bool, can be broadcast to (B, heads, L, S); None: all True.
        p: dropout probability of the attention weights.

    Returns:
        (B, heads, L, C'), in float32. With dropout in mixed precision only scores and softmax
        are in float32; the product with ``v`` is in its dtype.
    """
    uses_own_dropout = p > 0 and torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", enabled=False):
        if not uses_own_dropout:
            q, k, v = q.float(), k.float(), v.float()
            return F.scaled_dot_product_attention(q, k, v, is_attended_to, p)
        scores = q.float() * q.shape[3] ** -0.5 @ k.float().transpose(2, 3)
        if is_attended_to is not None:  # not -inf: a row of padding alone would become NaN
            scores = scores.masked_fill(~is_attended_to, torch.finfo(scores.dtype).min)
        return dropout(scores.softmax(3), p).to(v.dtype) @ v


def _is_usual_mask(attn_mask: Tensor | None, query: Tensor, key: Tensor) -> bool:
    """Whether an attention mask is missing, or (L, S) bool."""
    if attn_mask is None:
        return True
    return attn_mask.dtype == torch.bool and attn_mask.shape == (query.shape[0], key.shape[0])


def has_usual_inputs(query: Tensor, key: Tensor, padding_mask: Tensor | None) -> bool:
    """Whether the inputs are batched, on a CPU, not float64, with a bool mask (B, S) or none."""
    if query.device.type != "cpu" or query.dim() != 3 or query.dtype == torch.float64:
        return False
    if padding_mask is None:
        return True
    return padding_mask.dtype == torch.bool and padding_mask.shape == (key.shape[1], key.shape[0])
