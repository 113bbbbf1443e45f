"""DETR whose queries are anchor boxes, with denoising in training, and its transformer."""

from typing import Any

import torch
from torch import Tensor, nn

from models.anchor.decoder import AnchorDecoder
from models.anchor.denoising import DenoisingQueries, attention_mask, noised_queries
from models.anchor.overlap import penalize_overlap
from models.backbone import build_backbone
from models.detr import DETR
from models.matcher import Objects
from models.transformer import Transformer, build_transformer
from util.nested_tensor import NestedTensor
from util.options import option
from util.tensor_ops import in_float32

_ANCHOR_SIZE = 0.3  # width and height of initial anchors; docs/convergence.md
_PLASTIC_NUMBER = 1.32471795724474602596  # the real solution of x ** 3 = x + 1


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


class AnchorDETR(DETR):
    """DETR with anchor boxes as queries, refined by each decoder layer.

    ``query_embed`` holds the logits of the anchors (Q, 4), see `spread_anchors`. ``content_embed``
    holds the initial content of denoising queries, one row per class; its last row is the initial
    content of all ordinary queries.

    Args:
        backbone, num_classes, num_queries, aux_loss: see `models.detr.DETR`.
        transformer: see `models.anchor.detr.AnchorTransformer`.
        denoising: number of groups of denoising queries in training; 0: none.
        overlap_penalty: see `models.anchor.overlap.penalize_overlap`; 0: none.

    Source: DAB-DETR (Liu et al., ICLR 2022); DN-DETR (Li et al., CVPR 2022).
    """

    def __init__(
        self,
        backbone: nn.Module,
        transformer: AnchorTransformer,
        num_classes: int,
        num_queries: int,
        aux_loss: bool = False,
        denoising: int = 0,
        overlap_penalty: float = 0,
    ):
        super().__init__(backbone, transformer, num_classes, num_queries, aux_loss)
        del self.bbox_embed  # the decoder predicts the boxes
        self.query_embed = nn.Embedding(num_queries, 4)
        self.query_embed.weight.data.copy_(spread_anchors(num_queries).logit())
        self.content_embed = nn.Embedding(num_classes + 1, transformer.d_model)
        self.denoising = denoising
        self.overlap_penalty = float(overlap_penalty)
        self.needs_targets = denoising > 0

    def detect(  # type: ignore[no-untyped-def]
        self,
        feature: NestedTensor,
        position: Tensor,
        targets: list[dict[str, Tensor]] | None = None,
    ):
        """Predict classes and boxes; see `models.detr.DETR.detect`.

        In training with ``targets`` the outputs have a key ``denoising``: a dict with
        ``pred_logits`` (L, P, K) and ``pred_boxes`` (L, P, 4) of P = groups * N noised objects,
        for all N objects of the batch and each group, in the order of the decoder layers.
        """
        mask = feature.mask
        assert mask is not None
        projected = self.input_proj(feature.tensors)
        batch_size = projected.shape[0]
        content = self.content_embed.weight[-1].expand(batch_size, self.num_queries, -1)
        anchors = self.query_embed.weight.expand(batch_size, -1, -1)
        if not torch.jit.is_scripting():
            is_denoising = self.training and self.denoising > 0
            if is_denoising and targets is not None:
                queries = content, anchors
                return self._detect_and_denoise(projected, mask, queries, position, targets)
        states, box_logits, memory = self.transformer(projected, mask, content, anchors, position)
        return self._outputs_of(states, box_logits), states[-1], projected, memory

    @torch.jit.unused
    def _detect_and_denoise(
        self,
        projected: Tensor,
        mask: Tensor,
        queries: tuple[Tensor, Tensor],
        position: Tensor,
        targets: list[dict[str, Tensor]],
    ) -> tuple[dict[str, Any], Tensor, Tensor, Tensor]:
        """Decode ordinary and denoising queries together."""
        content, anchors = queries
        num_queries, num_classes = self.num_queries, self.class_embed.out_features - 1
        noised = noised_queries(Objects.from_targets(targets), self.denoising, num_classes)
        padding = noised.padding.new_zeros(len(content), num_queries)
        states, box_logits, memory = self.transformer(
            projected,
            mask,
            torch.cat((content, self.content_embed(noised.labels)), dim=1),
            torch.cat((anchors, noised.box_logits.to(anchors.dtype)), dim=1),
            position,
            attention_mask(num_queries, noised.group),
            torch.cat((padding, noised.padding), dim=1),
        )
        ordinary = states[:, :, :num_queries]
        out = self._outputs_of(ordinary, box_logits[:, :, :num_queries])
        out["denoising"] = self._denoised(
            states[:, :, num_queries:], box_logits[:, :, num_queries:], noised
        )
        return out, ordinary[-1], projected, memory

    def _outputs_of(self, states: Tensor, box_logits: Tensor):  # type: ignore[no-untyped-def]
        if not self.aux_loss:
            states, box_logits = states[-1:], box_logits[-1:]
        logits, boxes_cxcywh = self._class_logits(states), box_logits.sigmoid()
        if self.overlap_penalty != 0:
            logits = penalize_overlap(logits, boxes_cxcywh, self.overlap_penalty)
        return self._as_outputs(logits, boxes_cxcywh)

    def _denoised(
        self, states: Tensor, box_logits: Tensor, noised: DenoisingQueries
    ) -> dict[str, Tensor]:
        """Predictions for the noised objects, without padding; see `detect`."""
        if not self.aux_loss:
            states, box_logits = states[-1:], box_logits[-1:]
        chosen = states.flatten(1, 2).index_select(1, noised.query)
        boxes = box_logits.flatten(1, 2).index_select(1, noised.query).sigmoid()
        return {"pred_logits": self._class_logits(chosen), "pred_boxes": boxes}

    def _class_logits(self, states: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self.class_embed(states)
        return in_float32(self.class_embed, states)


def spread_anchors(num_queries: int) -> Tensor:
    """Initial anchors (Q, 4): boxes cxcywh of equal size, evenly spread over the image.

    Source: Roberts, "The Unreasonable Effectiveness of Quasirandom Sequences", 2018 (centers).
    """
    steps = torch.tensor([_PLASTIC_NUMBER**-1, _PLASTIC_NUMBER**-2])
    centers = (0.5 + torch.arange(1, num_queries + 1)[:, None] * steps) % 1
    return torch.cat((centers.clamp(0.05, 0.95), torch.full_like(centers, _ANCHOR_SIZE)), dim=1)


def build_anchor_detr(args: Any, num_classes: int) -> AnchorDETR:
    """Build the model from the flags."""
    return AnchorDETR(
        build_backbone(args),
        build_transformer(args, AnchorTransformer),
        num_classes=num_classes,
        num_queries=args.num_queries,
        aux_loss=args.aux_loss,
        denoising=option(args, "denoising"),
        overlap_penalty=option(args, "overlap_penalty"),
    )
