"""The minimal DETR of the paper (appendix A.6): ResNet-50, `torch.nn.Transformer` and two heads.

Differences from `models.detr`: positional encodings are added only at the input; one linear layer
predicts the boxes; all images of a batch have the same size, since there is no padding mask; and
there are no auxiliary losses.
"""

import torch
import torchvision
from torch import Tensor, nn

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
        self.backbone = torchvision.models.resnet50(weights=None)
        del self.backbone.fc
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
        features = self.conv(self._features(images))
        position = self._positions(*features.shape[-2:])
        # The released weights were trained with scaled-down features.
        tokens = position + 0.1 * features.flatten(2).transpose(1, 2)  # (B, H * W, C)
        states = self.transformer(tokens, self.query_pos.expand(len(images), -1, -1))
        return {
            "pred_logits": self.linear_class(states),
            "pred_boxes": self.linear_bbox(states).sigmoid(),
        }

    def _features(self, x: Tensor) -> Tensor:
        """Output of the last stage of the backbone, (B, 2048, H / 32, W / 32)."""
        for stage in self.backbone.children():
            if stage is not self.backbone.avgpool:
                x = stage(x)
        return x

    def _positions(self, height: int, width: int) -> Tensor:
        """Positional encodings (height * width, C): channels of the column, then of the row."""
        if max(height, width) > _LARGEST_GRID:
            raise UserError(
                f"the minimal model supports {_LARGEST_GRID} x {_LARGEST_GRID} feature cells, the "
                f"image has {height} x {width}: use images of at most "
                f"{32 * _LARGEST_GRID} pixels per side, or another model"
            )
        columns = self.col_embed[:width].expand(height, width, -1)
        rows = self.row_embed[:height, None].expand(height, width, -1)
        return torch.cat((columns, rows), dim=2).flatten(0, 1)
