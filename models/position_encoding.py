"""Positional encodings of the feature map (DETR paper, section 3.2)."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from util.errors import UserError
from util.nested_tensor import NestedTensor
from util.options import option


class PositionEmbeddingSine(nn.Module):
    """Sine and cosine encoding of row and column; padding is not counted.

    Args:
        num_pos_feats: number of channels per axis.
        temperature: base of the geometric series of wavelengths.
        normalize: scale positions so that the last valid row or column is at ``scale``.
        scale: largest position; default 2π; requires ``normalize``.

    Raises:
        ValueError: if ``scale`` is given without ``normalize``.

    Source: DETR paper, appendix A.4; Vaswani et al. 2017, section 3.5, for one dimension.
    """

    def __init__(
        self,
        num_pos_feats: int = 64,
        temperature: float = 10000,
        normalize: bool = False,
        scale: float | None = None,
    ):
        super().__init__()
        if scale is not None and not normalize:
            raise ValueError("scale needs normalize=True")
        self.num_pos_feats = num_pos_feats
        self.temperature = temperature
        self.normalize = normalize
        self.scale = 2 * math.pi if scale is None else scale

    def forward(self, tensor_list: NestedTensor) -> Tensor:
        """Encode the positions of a batch.

        Args:
            tensor_list: features (B, C, H, W) with a padding mask (B, H, W).

        Returns:
            (B, 2 * num_pos_feats, H, W) float32: channels of the row, then channels of the column.
        """
        mask = tensor_list.mask
        assert mask is not None
        valid = ~mask
        rows = valid.cumsum(1, dtype=torch.float32)
        columns = valid.cumsum(2, dtype=torch.float32)
        if self.normalize:
            rows = rows / (rows[:, -1:, :] + 1e-6) * self.scale
            columns = columns / (columns[:, :, -1:] + 1e-6) * self.scale
        encoded = torch.cat((self._waves(rows), self._waves(columns)), dim=3)
        return encoded.permute(0, 3, 1, 2)

    def _waves(self, position: Tensor) -> Tensor:
        return sine_waves(position, self.num_pos_feats, float(self.temperature))


def sine_waves(position: Tensor, num_channels: int, temperature: float) -> Tensor:
    """Alternating sine and cosine of each wavelength.

    Args:
        position: (...).
        num_channels: number of channels, even.
        temperature: base of the geometric series of wavelengths.

    Returns:
        (..., num_channels).
    """
    channel = torch.arange(num_channels, dtype=torch.float32, device=position.device)
    exponent = 2 * torch.div(channel, 2, rounding_mode="floor") / num_channels
    angle = position[..., None] / temperature**exponent
    return torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(-2)


class CellCenterEncoding(nn.Module):
    """Sine and cosine encoding of the centers of feature-map positions, for anchor queries.

    The center of a box has the same encoding, see `encode_coordinates`. `PositionEmbeddingSine`
    encodes the right and bottom edge of each position.

    Args:
        num_pos_feats: number of channels per axis.
    """

    def __init__(self, num_pos_feats: int):
        super().__init__()
        self.num_pos_feats = num_pos_feats

    def forward(self, tensor_list: NestedTensor) -> Tensor:
        """Encode the positions of a batch; arguments and result as in `PositionEmbeddingSine`."""
        mask = tensor_list.mask
        assert mask is not None
        valid = ~mask
        rows = valid.cumsum(1, dtype=torch.float32)
        columns = valid.cumsum(2, dtype=torch.float32)
        y = (rows - 0.5) / rows[:, -1:, :].clamp(min=1)
        x = (columns - 0.5) / columns[:, :, -1:].clamp(min=1)
        encoded = (encode_coordinates(value, self.num_pos_feats) for value in (y, x))
        return torch.cat(list(encoded), dim=3).permute(0, 3, 1, 2)


def encode_coordinates(values: Tensor, num_channels: int, temperature: float = 20) -> Tensor:
    """Sine and cosine encoding of coordinates.

    Args:
        values: (...) in [0, 1].
        num_channels: number of channels, even.
        temperature: see `sine_waves`; the default is from DAB-DETR, section 4.4.

    Returns:
        (..., num_channels).
    """
    return sine_waves(values * (2 * math.pi), num_channels, temperature)


LEARNED_CELLS = 50  # rows and columns of the learned encoding


class PositionEmbeddingLearned(nn.Module):
    """Learned encoding of row and column, for feature maps of up to 50 x 50.

    Args:
        num_pos_feats: number of channels per axis.

    Source: DETR paper, section 4.2 (table 3, "learned at attn.").
    """

    def __init__(self, num_pos_feats: int = 256):
        super().__init__()
        self.row_embed = nn.Embedding(LEARNED_CELLS, num_pos_feats)
        self.col_embed = nn.Embedding(LEARNED_CELLS, num_pos_feats)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, tensor_list: NestedTensor) -> Tensor:
        """Encode the positions of a batch.

        Args:
            tensor_list: features (B, C, H, W); the mask is not used.

        Returns:
            (B, 2 * num_pos_feats, H, W): channels of the column, then channels of the row.

        Raises:
            UserError: if there are more rows or columns than learned vectors.
        """
        features = tensor_list.tensors
        batch_size, height, width = features.shape[0], features.shape[2], features.shape[3]
        grid = self.row_embed.num_embeddings
        if height > grid or width > grid:
            raise UserError(
                f"learned position embeddings cover feature maps of up to {grid} x {grid}, this "
                f"batch has {height} x {width}: use smaller images (main.py: --scales, --max_size) "
                "or sine position embeddings (main.py: --position_embedding sine)"
            )
        columns = self.col_embed.weight[:width].expand(height, width, -1)
        rows = self.row_embed.weight[:height].unsqueeze(1).expand(height, width, -1)
        encoded = torch.cat((columns, rows), dim=2).permute(2, 0, 1)
        return encoded.unsqueeze(0).expand(batch_size, -1, -1, -1)


def build_position_encoding(args: Any) -> nn.Module:
    """Build the positional encoding from ``--position_embedding`` and ``--hidden_dim``.

    ``--query_design anchor`` has its own, `CellCenterEncoding`.

    Raises:
        ValueError: if the name is unknown (``v2`` and ``v3`` are older names of ``sine`` and
            ``learned``).
    """
    num_pos_feats = args.hidden_dim // 2
    if option(args, "query_design") == "anchor":
        return CellCenterEncoding(num_pos_feats)
    if args.position_embedding in ("sine", "v2"):
        return PositionEmbeddingSine(num_pos_feats, normalize=True)
    if args.position_embedding in ("learned", "v3"):
        return PositionEmbeddingLearned(num_pos_feats)
    raise ValueError(
        f"unknown position embedding {args.position_embedding!r}: choose sine or learned"
    )
