"""Decoder whose queries are boxes, refined layer by layer (DAB-DETR, sections 4.1 to 4.3)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.detr import MLP
from models.fast.attention import WeightHooks
from models.position_encoding import encode_coordinates
from models.transformer import TransformerDecoderLayer
from util.tensor_ops import in_float32


class ConditionalAttention(WeightHooks):
    """Multi-head attention whose scores are a content term plus a position term.

    DETR adds content and position before the projections, so its scores also contain the two
    cross terms. Here each head has the score ``cq · ck + pq · pk``, divided by the square root of
    its number of channels, 2 C / heads. Unlike in the papers, the values also contain positions:
    to move its box, a query must know where the attended features are (docs/convergence.md).

    Args:
        embed_dim: number of channels C of contents and of positions.
        num_heads: number of attention heads.
        dropout: dropout probability of the attention weights.

    Source: Conditional DETR (Meng et al., ICCV 2021), equation 4; DAB-DETR, equation 4.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_content = nn.Linear(embed_dim, embed_dim)
        self.query_position = nn.Linear(embed_dim, embed_dim)
        self.key_content = nn.Linear(embed_dim, embed_dim)
        self.key_position = nn.Linear(embed_dim, embed_dim)
        self.value = nn.Linear(embed_dim, embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)

    def forward(
        self,
        query: Tensor,
        query_position: Tensor,
        key: Tensor,
        key_position: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        average_attn_weights: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute attention.

        Args:
            query, query_position: contents and positions of the queries (Q, B, C).
            key, key_position: memory and its positional encodings (S, B, C).
            key_padding_mask: (B, S), True = padding.
            need_weights: also return the attention weights.
            average_attn_weights: average the weights over the heads.

        Returns:
            output (Q, B, C), and attention weights (B, Q, S) or (B, heads, Q, S), or None.
        """
        queries = self._heads(self.query_content(query), self.query_position(query_position))
        keys = self._heads(self.key_content(key), self.key_position(key_position))
        values = (
            self.value(key + key_position).unflatten(2, (self.num_heads, -1)).permute(1, 2, 0, 3)
        )
        is_attended_to = None if key_padding_mask is None else ~key_padding_mask[:, None, None]
        weights: Tensor | None = None
        if need_weights:
            weights, attended = self._attend_with_weights(queries, keys, values, is_attended_to)
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            dropout = self.dropout if self.training else 0.0
            attended = F.scaled_dot_product_attention(
                queries, keys, values, is_attended_to, dropout_p=dropout
            )
        return self.out_proj(attended.permute(2, 0, 1, 3).flatten(2)), weights

    def _heads(self, content: Tensor, position: Tensor) -> Tensor:
        """Concatenate content and position (L, B, C) of each head: (B, heads, L, 2 C / heads)."""
        parts = [x.unflatten(2, (self.num_heads, -1)) for x in (content, position)]
        return torch.cat(parts, dim=3).permute(1, 2, 0, 3)

    def _attend_with_weights(
        self, queries: Tensor, keys: Tensor, values: Tensor, is_attended_to: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Attention weights (B, heads, Q, S) after dropout, and the attended values."""
        scores = queries @ keys.transpose(2, 3) / queries.shape[3] ** 0.5
        if is_attended_to is not None:
            scores = scores.masked_fill(~is_attended_to, float("-inf"))
        weights = F.dropout(scores.softmax(-1), self.dropout, self.training)
        return weights, weights @ values


class AnchorDecoderLayer(TransformerDecoderLayer):
    """Self-attention of the queries, conditional cross-attention to the memory, and FFN.

    Args: see `models.transformer.TransformerLayer`.
    """

    def __init__(self, d_model: int, nhead: int, *options: Any):
        super().__init__(d_model, nhead, *options)
        dropout = self.multihead_attn.dropout
        self.multihead_attn = ConditionalAttention(d_model, nhead, dropout)  # type: ignore[assignment]

    def forward(  # type: ignore[override]
        self,
        tgt: Tensor,
        memory: Tensor,
        query_pos: Tensor,
        query_center: Tensor,
        pos: Tensor,
        tgt_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute the next content of each query.

        Args:
            tgt: content of the queries (Q, B, C).
            memory: encoder output (S, B, C).
            query_pos: positional queries of the self-attention (Q, B, C).
            query_center: modulated encodings of the box centers for the cross-attention (Q, B, C).
            pos: positional encodings of ``memory`` (S, B, C).
            tgt_mask: (Q, Q), True = attention not allowed.
            tgt_key_padding_mask, memory_key_padding_mask: (B, Q) and (B, S), True = padding.

        Returns:
            (Q, B, C).
        """
        tgt = self.self_attention(tgt, query_pos, tgt_key_padding_mask, tgt_mask)
        attended = self.multihead_attn(
            self.norm2(tgt) if self.normalize_before else tgt,
            query_center,
            memory,
            pos,
            key_padding_mask=memory_key_padding_mask,
            need_weights=self.multihead_attn.has_weight_hooks(),
        )[0]
        return self.after_cross_attention(tgt, attended)


class AnchorDecoder(nn.Module):
    """A stack of decoder layers; each layer moves the boxes of the queries.

    Boxes are stored as logits: each layer adds an offset to them, and the sigmoid gives cxcywh in
    [0, 1]. The layers share the MLPs that compute positional queries and offsets.

    Unlike in DAB-DETR, the positional query is also added to the content before each layer: offsets
    are predicted from the content, which would not contain the box otherwise (measured in
    docs/convergence.md).

    Args:
        num_layers: number of layers.
        d_model: number of channels C.
        *layer_options: further arguments of `AnchorDecoderLayer`.
    """

    def __init__(self, num_layers: int, d_model: int, *layer_options):  # type: ignore[no-untyped-def]
        super().__init__()
        layers = [AnchorDecoderLayer(d_model, *layer_options) for _ in range(num_layers)]
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(d_model)
        self.channels_per_axis = d_model // 2
        self.position_mlp = MLP(2 * d_model, d_model, d_model, 2)
        self.scale_mlp = MLP(d_model, d_model, d_model, 2)
        self.size_mlp = MLP(d_model, d_model, 2, 2)
        self.offset_mlp = MLP(d_model, d_model, 4, 3)

    def init_weights(self) -> None:
        """Set box offsets to 0, and let each query attend to the features near its center."""
        _set_constant(self.offset_mlp, 0)
        _set_constant(self.scale_mlp, 1)
        for layer in self.layers:
            attention: Any = layer.multihead_attn
            attention.key_position.load_state_dict(attention.query_position.state_dict())

    def forward(
        self,
        content: Tensor,
        box_logits: Tensor,
        memory: Tensor,
        pos: Tensor,
        tgt_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode the queries.

        Boxes are detached between layers.

        Args:
            content: initial content of the queries (Q, B, C).
            box_logits: initial boxes of the queries (Q, B, 4).
            memory, pos: encoder output and its positional encodings (S, B, C).
            tgt_mask, tgt_key_padding_mask, memory_key_padding_mask: see `AnchorDecoderLayer`.

        Returns:
            for L layers the normalized outputs (L, Q, B, C) and the box logits (L, Q, B, 4).
        """
        states: list[Tensor] = []
        boxes: list[Tensor] = []
        for layer in self.layers:
            query_pos, query_center = self._positions(content, box_logits.sigmoid())
            content = layer(
                content + query_pos,
                memory,
                query_pos,
                query_center,
                pos,
                tgt_mask=tgt_mask,
                tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
            )
            state = self.norm(content)
            moved = box_logits + self._offsets(state)
            states.append(state)
            boxes.append(moved)
            box_logits = moved.detach()
        return torch.stack(states), torch.stack(boxes)

    def _positions(self, content: Tensor, boxes_cxcywh: Tensor) -> tuple[Tensor, Tensor]:
        """Positional queries of self- and cross-attention, both (Q, B, C).

        Source: DAB-DETR, equations 2, 4 and 6.
        """
        encoded = encode_coordinates(boxes_cxcywh, self.channels_per_axis)  # (Q, B, 4, C / 2)
        x, y, width, height = encoded.to(boxes_cxcywh.dtype).unbind(2)
        # y first, like the positional encodings of the feature map
        query_pos = self.position_mlp(torch.cat((y, x, width, height), dim=2))
        size = self.size_mlp(content).sigmoid() / boxes_cxcywh[..., 2:].clamp(min=1e-3)
        center = torch.cat((y * size[..., 1:], x * size[..., :1]), dim=2)
        return query_pos, center * self.scale_mlp(content)

    def _offsets(self, state: Tensor) -> Tensor:
        """Offsets (Q, B, 4) of the box logits."""
        if torch.jit.is_scripting():
            return self.offset_mlp(state)
        return in_float32(self.offset_mlp, state)


def _set_constant(mlp: MLP, value: float) -> None:
    """Initialize the last layer of an MLP so that it outputs a constant."""
    nn.init.zeros_(mlp.layers[-1].weight)  # type: ignore[arg-type]
    nn.init.constant_(mlp.layers[-1].bias, value)  # type: ignore[arg-type]
