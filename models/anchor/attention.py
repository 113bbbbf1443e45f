"""Cross-attention with separate content and position terms (Conditional DETR, section 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.fast.attention import WeightHooks


class ConditionalAttention(WeightHooks):
    """Multi-head attention whose scores are a content term plus a position term.

    DETR adds content and position before the projections, so its scores also contain the two
    cross terms. Here each head has the score ``cq · ck + pq · pk``, scaled by the square root of
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
        """Content and position (L, B, C) of each head side by side: (B, heads, L, 2 C / heads)."""
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
