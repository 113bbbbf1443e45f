"""The encoder-decoder transformer of DETR (paper, section 3.2 and appendix A.3).

It differs from Vaswani et al. 2017 in three points: positional encodings are added to the queries
and keys of every attention layer, not only at the input; the decoder processes all queries in
parallel; and the outputs of all decoder layers can be returned, for the auxiliary losses.
Sequences have shape (length, batch, channels): S = H * W image features, or Q queries. `Attention`
computes the same as PyTorch's, except in mixed precision on a CPU.
"""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fast.attention import Attention

_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {"relu": F.relu, "gelu": F.gelu, "glu": F.glu}


def _with_position(x: Tensor, position: Tensor | None) -> Tensor:
    return x if position is None else x + position


class TransformerLayer(nn.Module):
    """Attention and feed-forward network (FFN), each with residual connection and LayerNorm.

    Args:
        d_model: number of channels.
        nhead: number of attention heads.
        dim_feedforward: number of hidden channels of the FFN.
        dropout: dropout probability of attention weights, FFN and residual branches.
        activation: ``relu``, ``gelu`` or ``glu``.
        normalize_before: pre-norm: normalize the input of each branch, not the sum after it.
    """

    _is_decoder = False  # has a cross-attention

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
        normalize_before: bool = False,
    ):
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation {activation!r} is not one of {', '.join(_ACTIVATIONS)}")
        # A gated linear unit (glu) halves the channels.
        inner_width = 2 * dim_feedforward if activation == "glu" else dim_feedforward
        # Optimizer states in checkpoints depend on the order of these assignments.
        self.self_attn = Attention(d_model, nhead, dropout)
        if self._is_decoder:
            self.multihead_attn = Attention(d_model, nhead, dropout)
        self.linear1 = nn.Linear(d_model, inner_width)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        if self._is_decoder:
            self.norm3 = nn.LayerNorm(d_model)
            self.dropout3 = nn.Dropout(dropout)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        self.activation = _ACTIVATIONS[activation]
        self.normalize_before = normalize_before

    def self_attention(
        self, x: Tensor, position: Tensor | None, padding: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """Self-attention of tokens (L, B, C) with residual connection and the first LayerNorm."""
        value = self.norm1(x) if self.normalize_before else x
        query = _with_position(value, position)
        needs_weights = self.self_attn.has_weight_hooks()
        attended = self.self_attn(query, query, value, padding, needs_weights, mask)[0]
        x = x + self.dropout1(attended)
        return x if self.normalize_before else self.norm1(x)

    def ffn(self, x: Tensor) -> Tensor:
        """The FFN without its residual connection: (L, B, C) to (L, B, C)."""
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class TransformerEncoderLayer(TransformerLayer):
    """Self-attention of the image features, and FFN. Args: see `TransformerLayer`."""

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        pos: Tensor | None = None,
    ) -> Tensor:
        """Encode the image features ``src`` with positional encodings ``pos``, both (S, B, C).

        Args:
            src_mask: (S, S), True = attention not allowed.
            src_key_padding_mask: (B, S), True = padding.
        """
        src = self.self_attention(src, pos, src_key_padding_mask, src_mask)
        x = self.norm2(src) if self.normalize_before else src
        src = src + self.dropout2(self.ffn(x))
        return src if self.normalize_before else self.norm2(src)


class TransformerDecoderLayer(TransformerLayer):
    """Self-attention of the queries, cross-attention to the memory, and FFN.

    Args: see `TransformerLayer`.
    """

    _is_decoder = True

    def forward(
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
        """Compute the next output of each query.

        Args:
            tgt: output of the previous decoder layer (Q, B, C).
            memory: encoder output (S, B, C).
            tgt_mask, memory_mask: (Q, Q) and (Q, S), True = attention not allowed.
            tgt_key_padding_mask, memory_key_padding_mask: (B, Q) and (B, S), True = padding.
            pos: positional encodings of ``memory`` (S, B, C).
            query_pos: learned query embeddings (Q, B, C).

        Returns:
            (Q, B, C).
        """
        tgt = self.self_attention(tgt, query_pos, tgt_key_padding_mask, tgt_mask)
        x = self.norm2(tgt) if self.normalize_before else tgt
        attended = self.multihead_attn(
            _with_position(x, query_pos),
            _with_position(memory, pos),
            memory,
            attn_mask=memory_mask,
            key_padding_mask=memory_key_padding_mask,
            need_weights=self.multihead_attn.has_weight_hooks(),
        )[0]
        return self.after_cross_attention(tgt, attended)

    def after_cross_attention(self, tgt: Tensor, attended: Tensor) -> Tensor:
        """Add the attended memory to the queries, both (Q, B, C), then the FFN."""
        tgt = tgt + self.dropout2(attended)
        tgt = tgt if self.normalize_before else self.norm2(tgt)
        x = self.norm3(tgt) if self.normalize_before else tgt
        tgt = tgt + self.dropout3(self.ffn(x))
        return tgt if self.normalize_before else self.norm3(tgt)


class TransformerEncoder(nn.Module):
    """A stack of encoder layers.

    Args:
        encoder_layer: deep-copied for each layer.
        num_layers: number of layers.
        norm: LayerNorm of the output, for pre-norm layers.
    """

    def __init__(self, encoder_layer: nn.Module, num_layers: int, norm: nn.Module | None = None):
        super().__init__()
        self.layers = nn.ModuleList([copy.deepcopy(encoder_layer) for _ in range(num_layers)])
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        pos: Tensor | None = None,
    ) -> Tensor:
        """Encode the image features; for arguments and result see `TransformerEncoderLayer`."""
        for layer in self.layers:
            src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask, pos=pos)
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(nn.Module):
    """A stack of decoder layers.

    Args:
        decoder_layer: deep-copied for each layer.
        num_layers: number of layers.
        norm: LayerNorm, shared by the outputs of all layers.
        return_intermediate: return the outputs of all layers instead of only the last.
    """

    def __init__(
        self,
        decoder_layer: nn.Module,
        num_layers: int,
        norm: nn.Module | None = None,
        return_intermediate: bool = False,
    ):
        super().__init__()
        self.layers = nn.ModuleList([copy.deepcopy(decoder_layer) for _ in range(num_layers)])
        self.num_layers = num_layers
        self.norm = norm
        self.return_intermediate = return_intermediate

    def forward(
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
        """Decode the queries; for the arguments see `TransformerDecoderLayer`.

        Returns:
            (L, Q, B, C) for L layers, or (1, Q, B, C) without ``return_intermediate``.
        """
        outputs = []
        for layer in self.layers:
            tgt = layer(
                tgt,
                memory,
                tgt_mask=tgt_mask,
                memory_mask=memory_mask,
                tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
                pos=pos,
                query_pos=query_pos,
            )
            if self.return_intermediate:
                outputs.append(tgt)
        stacked = torch.stack(outputs) if self.return_intermediate else tgt.unsqueeze(0)
        return stacked if self.norm is None else self.norm(stacked)


class Transformer(nn.Module):
    """Encoder and decoder, with Xavier initialization.

    Args:
        d_model: number of channels.
        nhead: number of attention heads.
        num_encoder_layers, num_decoder_layers: numbers of layers.
        dim_feedforward: number of hidden channels of the FFNs.
        dropout: dropout probability of all layers.
        activation: ``relu``, ``gelu`` or ``glu``.
        normalize_before: pre-norm layers.
        return_intermediate_dec: return the outputs of all decoder layers.

    Raises:
        ValueError: if the activation is unknown.
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
        normalize_before: bool = False,
        return_intermediate_dec: bool = False,
    ):
        super().__init__()
        layer_options = (d_model, nhead, dim_feedforward, dropout, activation, normalize_before)
        self.encoder = TransformerEncoder(
            TransformerEncoderLayer(*layer_options),
            num_encoder_layers,
            norm=nn.LayerNorm(d_model) if normalize_before else None,
        )
        self.decoder = self._decoder(num_decoder_layers, return_intermediate_dec, *layer_options)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.d_model = d_model
        self.nhead = nhead

    def _decoder(
        self, num_layers: int, return_intermediate: bool, d_model: int, *options: Any
    ) -> Any:
        layer = TransformerDecoderLayer(d_model, *options)
        return TransformerDecoder(layer, num_layers, nn.LayerNorm(d_model), return_intermediate)

    def encode(self, src: Tensor, mask: Tensor, pos_embed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode the image features; for the arguments see `forward`.

        Returns:
            memory and positional encodings (S, B, C), and padding mask (B, S).
        """
        tokens = src.flatten(2).permute(2, 0, 1)  # (B, C, H, W) -> (HW, B, C)
        positions = pos_embed.flatten(2).permute(2, 0, 1)
        padding_mask = mask.flatten(1)  # (B, HW)
        memory = self.encoder(tokens, src_key_padding_mask=padding_mask, pos=positions)
        return memory, positions, padding_mask

    def forward(self, src: Tensor, mask: Tensor, query_embed: Tensor, pos_embed: Tensor):  # type: ignore[no-untyped-def]
        """Encode the image features and decode all queries.

        Args:
            src: image features (B, C, H, W).
            mask: (B, H, W), True = padding.
            query_embed: learned query embeddings (Q, C).
            pos_embed: positional encodings (B, C, H, W).

        Returns:
            decoder outputs (L, B, Q, C), L = 1 without ``return_intermediate_dec``, and memory
            (B, C, H, W).
        """
        batch_size, _, height, width = src.shape
        memory, positions, padding_mask = self.encode(src, mask, pos_embed)
        query_pos = query_embed.unsqueeze(1).expand(-1, batch_size, -1)
        states = self.decoder(
            torch.zeros_like(query_pos),
            memory,
            memory_key_padding_mask=padding_mask,
            pos=positions,
            query_pos=query_pos,
        )
        memory = memory.permute(1, 2, 0).unflatten(2, (height, width))  # (HW, B, C) -> (B, C, H, W)
        return states.transpose(1, 2), memory


T = TypeVar("T", bound=Transformer)


def build_transformer(args: Any, kind: type[T] = Transformer) -> T:  # type: ignore[assignment]
    """Build the transformer from the flags; it returns the outputs of all decoder layers."""
    return kind(
        d_model=args.hidden_dim,
        nhead=args.nheads,
        num_encoder_layers=args.enc_layers,
        num_decoder_layers=args.dec_layers,
        dim_feedforward=args.dim_feedforward,
        dropout=args.dropout,
        normalize_before=args.pre_norm,
        return_intermediate_dec=True,
    )
