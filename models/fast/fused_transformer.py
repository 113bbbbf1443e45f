"""Encoder and decoder layers of `models.transformer` for inference.

Queries and keys are projected together where they have the same input, residual additions and ReLU
are part of the linear layers, and sequences are computed batch first: (B, length, C), the layout of
channels-last feature maps. Arguments and results keep the shape (length, B, C), as views.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.transformer import TransformerDecoderLayer, TransformerEncoderLayer
from util.system.precision import has_amx

from .attention import Attention
from .fast_forward import FastForward
from .onednn_linear import OneDnnAttention, OneDnnLinear
from .packed_layers import PackedLinear

_QUERIES_AT_ONCE = 256  # per chunk, whose scores fit into the CPU cache


class FusedAttention:
    """Multi-head attention without attention weights as output, plus a residual.

    Args:
        attention: the module with the parameters.
    """

    def __init__(self, attention: Attention):
        width, weight, bias = attention.embed_dim, attention.in_proj_weight, attention.in_proj_bias
        self._num_heads = attention.num_heads
        self._query_and_key = PackedLinear(weight[: 2 * width], bias[: 2 * width])
        self._query = PackedLinear(weight[:width], bias[:width])
        self._key = PackedLinear(weight[width : 2 * width], bias[width : 2 * width])
        self._value = PackedLinear(weight[2 * width :], bias[2 * width :])
        self._out = PackedLinear(attention.out_proj.weight, attention.out_proj.bias)

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, residual: Tensor
    ) -> Tensor:
        """Attention plus residual.

        Args:
            query: (B, L, C).
            key, value: (B, S, C).
            padding: (B, S) bool, True = padding.
            residual: (B, L, C).

        Returns:
            (B, L, C).
        """
        if query is key:
            q, k = self._query_and_key(query).chunk(2, dim=2)
        else:
            q, k = self._query(query), self._key(key)
        v = self._value(value)
        heads = _attend(self._split(q), self._split(k), self._split(v), padding)
        return self._out(heads.transpose(1, 2).flatten(2), residual)

    def _split(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, heads, L, C / heads)."""
        return x.unflatten(2, (self._num_heads, -1)).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None) -> Tensor:
    """Attention of each head.

    With bfloat16 on a CPU without AMX, explicit matrix products are used: they take about 60 % of
    the time of PyTorch's fused kernel. With AMX they take 2 to 4 times as long.

    Args:
        q: (B, heads, L, C).
        k, v: (B, heads, S, C).
        padding: (B, S) bool, True = padding.

    Returns:
        (B, heads, L, C).
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or has_amx():
        mask = None if padding is None else ~padding[:, None, None]  # True = attended to
        return F.scaled_dot_product_attention(q, k, v, mask)
    if padding is not None and not padding.any():
        padding = None
    keys = k.transpose(2, 3) * q.shape[3] ** -0.5
    parts = []
    for queries in q.split(_QUERIES_AT_ONCE, dim=2):
        scores = queries @ keys  # (B, heads, queries, S)
        if padding is not None:
            scores.masked_fill_(padding[:, None, None], -math.inf)
        parts.append(scores.softmax(3) @ v)
    return torch.cat(parts, dim=2)


class FusedFFN:
    """The feed-forward network of a layer, plus a residual."""

    def __init__(self, layer: Any):
        self._activation = layer.activation
        self._inner = PackedLinear(layer.linear1.weight, layer.linear1.bias)
        self._outer = PackedLinear(layer.linear2.weight, layer.linear2.bias)

    def __call__(self, x: Tensor, residual: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        if self._activation is F.relu:
            return self._outer(self._inner(x, relu=True), residual)
        return self._outer(self._activation(self._inner(x)), residual)


class FusedEncoderLayer:
    """Forward pass of a `TransformerEncoderLayer`."""

    def __init__(self, layer: TransformerEncoderLayer):
        self._layer = layer
        self._attention, self._ffn = FusedAttention(layer.self_attn), FusedFFN(layer)

    def __call__(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        pos: Tensor | None = None,
    ) -> Tensor:
        """See `TransformerEncoderLayer.forward`."""
        layer = self._layer
        if src_mask is not None:
            return type(layer).forward(layer, src, src_mask, src_key_padding_mask, pos)
        x = src.transpose(0, 1)
        branch = layer.norm1(x) if layer.normalize_before else x
        query = _add(branch, pos)
        x = self._attention(query, query, branch, src_key_padding_mask, residual=x)
        x = x if layer.normalize_before else layer.norm1(x)
        x = self._ffn(layer.norm2(x) if layer.normalize_before else x, residual=x)
        return (x if layer.normalize_before else layer.norm2(x)).transpose(0, 1)


class FusedDecoderLayer:
    """Forward pass of a `TransformerDecoderLayer`."""

    def __init__(self, layer: TransformerDecoderLayer):
        self._layer = layer
        self._self_attention = FusedAttention(layer.self_attn)
        self._cross_attention = FusedAttention(layer.multihead_attn)
        self._ffn = FusedFFN(layer)

    def __call__(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        pos: Tensor | None = None,
        query_pos: Tensor | None = None,
    ) -> Tensor:
        """See `TransformerDecoderLayer.forward`."""
        layer = self._layer
        if tgt_mask is not None or memory_mask is not None:
            masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
            return type(layer).forward(layer, tgt, memory, *masks, pos, query_pos)
        x, memory = tgt.transpose(0, 1), memory.transpose(0, 1)
        branch = layer.norm1(x) if layer.normalize_before else x
        query = _add(branch, query_pos)
        x = self._self_attention(query, query, branch, tgt_key_padding_mask, residual=x)
        x = x if layer.normalize_before else layer.norm1(x)
        query = _add(layer.norm2(x) if layer.normalize_before else x, query_pos)
        key = _add(memory, pos)
        x = self._cross_attention(query, key, memory, memory_key_padding_mask, residual=x)
        x = x if layer.normalize_before else layer.norm2(x)
        x = self._ffn(layer.norm3(x) if layer.normalize_before else x, residual=x)
        return (x if layer.normalize_before else layer.norm3(x)).transpose(0, 1)


def fuse_transformers(model: nn.Module) -> None:
    """Replace the forward passes of encoder and decoder layers, in place."""
    for module in list(model.modules()):
        if type(module) is TransformerEncoderLayer and _is_known(module, module.self_attn):
            _replace(module, FusedEncoderLayer(module))
        elif type(module) is TransformerDecoderLayer and _is_known(
            module, module.self_attn, module.multihead_attn
        ):
            _replace(module, FusedDecoderLayer(module))


def _replace(layer: nn.Module, fast: Any) -> None:
    FastForward.replace(layer, fast, watched=list(layer.modules())[1:])


def _is_known(layer: Any, *attentions: Attention) -> bool:
    """Whether attentions and linear layers are the usual ones, not for example LoRA adapters."""
    linears = layer.linear1, layer.linear2
    return all(type(linear) in (nn.Linear, OneDnnLinear) for linear in linears) and all(
        type(attention) in (Attention, OneDnnAttention) and attention.in_proj_bias is not None
        for attention in attentions
    )


def _add(x: Tensor, position: Tensor | None) -> Tensor:
    """``x`` (B, L, C) plus positional encodings (L, B, C)."""
    return x if position is None else x + position.transpose(0, 1)
