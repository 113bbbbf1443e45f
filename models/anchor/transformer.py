"""Transformer with DETR's encoder and the anchor-box decoder."""

from typing import Any

from torch import Tensor

from models.anchor.decoder import AnchorDecoder
from models.transformer import Transformer


class AnchorTransformer(Transformer):
    """Encoder and anchor decoder, with Xavier initialization.

    Args: see `models.transformer.Transformer`; the outputs of all decoder layers are returned.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.decoder.init_weights()

    def _decoder(self, num_layers: int, _: bool, d_model: int, *options: Any) -> Any:
        return AnchorDecoder(num_layers, d_model, *options)

    def forward(  # type: ignore[override]
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
        memory, positions, padding_mask = self.encode(src, mask, pos_embed)
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
