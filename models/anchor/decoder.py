"""Decoder whose queries are boxes, refined layer by layer (DAB-DETR, sections 4.1 to 4.3)."""

from typing import Any

import torch
from torch import Tensor, nn

from models.anchor.attention import ConditionalAttention
from models.detr import MLP
from models.fast.batched_losses import at_least_float32
from models.position_encoding import encode_coordinates
from models.transformer import TransformerDecoderLayer


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
        x, y, width, height = encoded.unbind(2)
        # y first, like the positional encodings of the feature map
        query_pos = self.position_mlp(torch.cat((y, x, width, height), dim=2))
        size = self.size_mlp(content).sigmoid() / boxes_cxcywh[..., 2:].clamp(min=1e-3)
        center = torch.cat((y * size[..., 1:], x * size[..., :1]), dim=2)
        return query_pos, center * self.scale_mlp(content)

    def _offsets(self, state: Tensor) -> Tensor:
        """Offsets (Q, B, 4) of the box logits."""
        if torch.jit.is_scripting():
            return self.offset_mlp(state)
        if state.device.type == "meta":  # the meta device has no autocast
            return self.offset_mlp(state)
        # bfloat16 has only 8 bits of precision, too few for box coordinates: use float32.
        with torch.autocast(state.device.type, enabled=False):
            return self.offset_mlp(at_least_float32(state))


def _set_constant(mlp: MLP, value: float) -> None:
    """Initialize the last layer of an MLP so that it outputs a constant."""
    nn.init.zeros_(mlp.layers[-1].weight)  # type: ignore[arg-type]
    nn.init.constant_(mlp.layers[-1].bias, value)  # type: ignore[arg-type]
