"""Attention weights of a DETR, recorded in a forward pass (paper, section 4.3)."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from util.errors import UserError


class AttentionMaps:
    """Attention weights of the last encoder and decoder layer for the first image of a batch.

    Recording starts immediately and ends with `stop` or at the end of a ``with`` block.

    Args:
        model: a `models.detr.DETR`, or a segmentation model that contains one.

    Attributes:
        decoder_heads: (heads, Q, H, W), cross-attention of each query to each position of the
            feature map, per head.
        encoder: (H, W, H, W), self-attention between all positions, mean over the heads.

    Raises:
        UserError: if the model has no encoder layer, or is the minimal model.
    """

    decoder_heads: np.ndarray
    encoder: np.ndarray

    def __init__(self, model: nn.Module):
        detr: Any = getattr(model, "detr", model)
        if not hasattr(detr, "input_proj"):
            raise UserError(
                "the minimal model (detr_demo) has no attention maps: use a different one"
            )
        if not len(detr.transformer.encoder.layers):
            raise UserError("the model has no encoder layer (--enc_layers 0): no attention maps")
        self._grid_hw = (0, 0)
        encoder = detr.transformer.encoder.layers[-1].self_attn
        decoder = detr.transformer.decoder.layers[-1].multihead_attn
        self._hooks = [
            detr.input_proj.register_forward_hook(self._keep_grid),
            encoder.register_forward_hook(self._keep_encoder),
            decoder.register_forward_pre_hook(_request_head_weights, with_kwargs=True),
            decoder.register_forward_hook(self._keep_decoder),
        ]

    def stop(self) -> None:
        """Stop recording; the maps are kept."""
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> "AttentionMaps":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def decoder(self) -> np.ndarray:
        """(Q, H, W), cross-attention of each query to each position, mean over the heads."""
        mean: np.ndarray = self.decoder_heads.mean(axis=0)
        return mean

    def _keep_grid(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._grid_hw = (output.shape[-2], output.shape[-1])

    def _keep_encoder(self, module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        weights = output[1][0].float().cpu().numpy()  # (HW, HW)
        self.encoder = weights.reshape(*self._grid_hw, *self._grid_hw)

    def _keep_decoder(self, module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        weights = output[1][0].float().cpu().numpy()  # (heads, Q, HW)
        self.decoder_heads = weights.reshape(*weights.shape[:2], *self._grid_hw)

    def cell_at(self, x: float, y: float) -> tuple[int, int]:
        """Row and column of the feature map at a point, in [0, 1] of image width and height."""
        height, width = self._grid_hw
        return min(max(int(y * height), 0), height - 1), min(max(int(x * width), 0), width - 1)


def _request_head_weights(
    module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Make an attention layer return its weights per head."""
    return inputs, {**options, "average_attn_weights": False}
