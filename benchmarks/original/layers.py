"""Layers of the original's detector: frozen norm, positions, encoder and decoder layer, MLP."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrozenNorm(nn.Module):
    """Batch norm with fixed statistics, computed in separate passes over the feature map."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0)):
            self.register_buffer(name, torch.full((channels,), value))
        for name, value in (("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, C, H, W) per channel."""
        mean, var, weight, bias = (
            buffer.reshape(1, -1, 1, 1)
            for buffer in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        scale = weight * (var + 1e-5).rsqrt()
        return x * scale + (bias - mean * scale)


def sine_positions(padding_mask: Tensor, channels: int) -> Tensor:
    """Positional encodings (B, channels, H, W) of a padding mask (B, H, W)."""
    valid = ~padding_mask
    encoded = []
    for axis in (1, 2):
        position = valid.cumsum(axis, dtype=torch.float32)
        last = position.narrow(axis, position.shape[axis] - 1, 1)
        position = position / (last + 1e-6) * 2 * math.pi
        channel = torch.arange(channels // 2, dtype=torch.float32, device=position.device)
        wavelength = 10000 ** (2 * (channel // 2) / (channels // 2))
        angle = position[..., None] / wavelength
        waves = torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=4)
        encoded.append(waves.flatten(3))
    return torch.cat(encoded, dim=3).permute(0, 3, 1, 2)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network, with LayerNorm after each."""

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(channels, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding_mask: Tensor, position: Tensor) -> Tensor:
        """Encode (S, B, C); padding mask (B, S)."""
        query = x + position
        attended = self.self_attn(query, query, x, key_padding_mask=padding_mask)[0]
        x = self.norm1(x + self.dropout(attended))
        hidden = self.dropout(F.relu(self.linear1(x)))
        return self.norm2(x + self.dropout(self.linear2(hidden)))


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward network, with LayerNorm after each."""

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(channels, heads, dropout)
        self.multihead_attn = nn.MultiheadAttention(channels, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, memory: Tensor, padding_mask: Tensor, position: Tensor, queries: Tensor
    ) -> Tensor:
        """Decode (Q, B, C) with the memory (S, B, C) and its padding mask (B, S)."""
        query = x + queries
        x = self.norm1(x + self.dropout(self.self_attn(query, query, x)[0]))
        key = memory + position
        attended = self.multihead_attn(x + queries, key, memory, key_padding_mask=padding_mask)[0]
        x = self.norm2(x + self.dropout(attended))
        hidden = self.dropout(F.relu(self.linear1(x)))
        return self.norm3(x + self.dropout(self.linear2(hidden)))


class Mlp(nn.Module):
    """Three linear layers with ReLU between them; the last has four outputs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (channels, channels, channels, 4)
        pairs = pairwise(widths)
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairs)

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) -> (…, 4)."""
        first, second, last = self.layers
        out: Tensor = last(F.relu(second(F.relu(first(x)))))
        return out
