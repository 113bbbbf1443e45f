"""Transformer with DETR's encoder and the anchor-box decoder."""

from typing import Any

from torch import Tensor, nn

from models.anchor.decoder import AnchorDecoder
from models.transformer import TransformerEncoder, TransformerEncoderLayer


class AnchorTransformer(nn.Module):
    """Encoder and anchor decoder, with Xavier initialization.

    Args: see `models.transformer.Transformer`.
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
    ):
        super().__init__()
        layer_options = (nhead, dim_feedforward, dropout, activation, normalize_before)
        self.encoder = TransformerEncoder(
            TransformerEncoderLayer(d_model, *layer_options),
            num_encoder_layers,
            norm=nn.LayerNorm(d_model) if normalize_before else None,
        )
        self.decoder = AnchorDecoder(num_decoder_layers, d_model, *layer_options)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.decoder.init_weights()
        self.d_model = d_model
        self.nhead = nhead

    def forward(
        self,
        src: Tensor,
        mask: Tensor,
        content: Tensor,
        box_logits: Tensor,
        pos_embed: Tensor,
        attention_mask: Tensor | None = None,
        query_padding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode the image features and decode all queries.

        Args:
            src: image features (B, C, H, W).
            mask: (B, H, W), True = padding.
            content: initial content of the queries (B, Q, C).
            box_logits: initial boxes of the queries (B, Q, 4).
            pos_embed: positional encodings (B, C, H, W).
            attention_mask: (Q, Q), True = query i (row) may not attend to query j (column).
            query_padding: (B, Q), True = padding.

        Returns:
            decoder outputs (L, B, Q, C), box logits (L, B, Q, 4), and memory (B, C, H, W).
        """
        height, width = src.shape[-2:]
        tokens = src.flatten(2).permute(2, 0, 1)  # (B, C, H, W) -> (HW, B, C)
        positions = pos_embed.flatten(2).permute(2, 0, 1)
        padding_mask = mask.flatten(1)  # (B, HW)
        memory = self.encoder(tokens, src_key_padding_mask=padding_mask, pos=positions)
        states, boxes = self.decoder(
            content.transpose(0, 1),
            box_logits.transpose(0, 1),
            memory,
            positions,
            tgt_mask=attention_mask,
            tgt_key_padding_mask=query_padding,
            memory_key_padding_mask=padding_mask,
        )
        memory = memory.permute(1, 2, 0).unflatten(2, (height, width))  # (HW, B, C) -> (B, C, H, W)
        return states.transpose(1, 2), boxes.transpose(1, 2), memory


def build_anchor_transformer(args: Any) -> AnchorTransformer:
    """Build the transformer from the flags."""
    return AnchorTransformer(
        d_model=args.hidden_dim,
        nhead=args.nheads,
        num_encoder_layers=args.enc_layers,
        num_decoder_layers=args.dec_layers,
        dim_feedforward=args.dim_feedforward,
        dropout=args.dropout,
        normalize_before=args.pre_norm,
    )
