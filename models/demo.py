"""The minimal DETR of the paper (appendix A.6): ResNet-50, `torch.nn.Transformer` and two heads.

Differences from `models.detr`: positional encodings are added only at the input; one linear layer
predicts the boxes; all images of a batch have the same size, since there is no padding mask; and
there are no auxiliary losses.
"""

import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter

from util.errors import UserError

_LARGEST_GRID = 50  # rows and columns of the learned positional encoding
_NUM_QUERIES = 100


class MinimalDETR(nn.Module):
    """Minimal DETR, with the parameter names of the released demo weights.

    Args:
        num_classes: number of object classes; the last logit is an additional no-object class.
        hidden_dim: number of channels in the transformer.
        nheads: number of attention heads.
        num_encoder_layers, num_decoder_layers: numbers of layers.
    """

    def __init__(
        self,
        num_classes: int,
        hidden_dim: int = 256,
        nheads: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
    ):
        super().__init__()
        # Only the layers up to layer4: a ResNet with a deleted layer cannot be scripted.
        self.backbone = IntermediateLayerGetter(resnet50(weights=None), {"layer4": "features"})
        self.conv = nn.Conv2d(2048, hidden_dim, 1)
        self.transformer = nn.Transformer(
            hidden_dim, nheads, num_encoder_layers, num_decoder_layers, batch_first=True
        )
        self.linear_class = nn.Linear(hidden_dim, num_classes + 1)
        self.linear_bbox = nn.Linear(hidden_dim, 4)
        self.query_pos = nn.Parameter(torch.rand(_NUM_QUERIES, hidden_dim))
        self.row_embed = nn.Parameter(torch.rand(_LARGEST_GRID, hidden_dim // 2))
        self.col_embed = nn.Parameter(torch.rand(_LARGEST_GRID, hidden_dim // 2))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Predict classes and boxes.

        Args:
            images: (B, 3, H, W) RGB, normalized with the ImageNet mean and standard deviation; at
                most 1600 pixels per side.

        Returns:
            ``pred_logits`` (B, 100, num_classes + 1) and ``pred_boxes`` (B, 100, 4) cxcywh in
            [0, 1], relative to the image.

        Raises:
            UserError: if the images are too large.
        """
        features = self.conv(self.backbone(images)["features"])
        position = self._positions(features.shape[2], features.shape[3])
        # The released weights were trained with scaled-down features.
        tokens = position + 0.1 * features.flatten(2).transpose(1, 2)  # (B, H * W, C)
        states = self._transform(tokens, self.query_pos.expand(images.shape[0], -1, -1))
        return {
            "pred_logits": self.linear_class(states),
            "pred_boxes": self.linear_bbox(states).sigmoid(),
        }

    def _transform(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """Query states (B, Q, C) from tokens (B, H * W, C) and queries (B, Q, C)."""
        if torch.jit.is_scripting() or not torch.jit.is_tracing():
            states: Tensor = self.transformer(tokens, queries)
            return states
        return self._transform_traced(tokens, queries)

    @torch.jit.unused
    def _transform_traced(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """As `_transform`, without the inference fast path of `torch.nn.Transformer`.

        `torch.jit.trace` compares graphs with and without gradients, which must be equal.
        """
        is_enabled = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            states: Tensor = self.transformer(tokens, queries)
            return states
        finally:
            torch.backends.mha.set_fastpath_enabled(is_enabled)

    def _positions(self, height: int, width: int) -> Tensor:
        """Positional encodings (height * width, C): channels of the column, then of the row."""
        grid = self.row_embed.shape[0]
        if height > grid or width > grid:
            raise UserError(
                f"the minimal model supports feature maps of up to {grid} x {grid}, the image has "
                f"{height} x {width}: use images of at most {32 * grid} pixels per side, or "
                "another model"
            )
        columns = self.col_embed[:width].expand(height, width, -1)
        rows = self.row_embed[:height, None].expand(height, width, -1)
        return torch.cat((columns, rows), dim=2).flatten(0, 1)
