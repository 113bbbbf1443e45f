"""The attention of DETR's transformer: PyTorch's, made observable and quick to train on a CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` that computes weights only once a forward hook listens.

    Without weights the fused kernels can be used; the well-known attention-map notebooks register
    hooks and find the weights (batch, target length, source length) in ``output[1]``.

    What DETR asks for in training without dropout, in mixed precision on the CPU, is computed in
    float32: there PyTorch's bfloat16 kernel takes as long or longer, up to five times, forward and
    backward (``benchmarks/attention.py``). With dropout it does not use that kernel.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float):
        super().__init__(embed_dim, num_heads, dropout=dropout)
        self.is_observed = False

    def register_forward_hook(self, *args: Any, **kwargs: Any) -> Any:
        """As in `torch.nn.Module`; from now on the attention weights are computed."""
        self.is_observed = True
        return super().register_forward_hook(*args, **kwargs)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As in `torch.nn.MultiheadAttention`; sequences are (length, batch, channel)."""
        if not torch.jit.is_scripting():
            fused = not (need_weights or is_causal or (self.training and self.dropout))
            if fused and attn_mask is None and _trains_on_cpu(query, key, key_padding_mask):
                return self._attend_in_float32((query, key, value), key_padding_mask), None
        # What ``super().forward`` does; TorchScript knows no ``super``.
        return F.multi_head_attention_forward(
            query,
            key,
            value,
            self.embed_dim,
            self.num_heads,
            self.in_proj_weight,
            self.in_proj_bias,
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=self.dropout,
            out_proj_weight=self.out_proj.weight,
            out_proj_bias=self.out_proj.bias,
            training=self.training,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )

    def _attend_in_float32(
        self, inputs: tuple[Tensor, Tensor, Tensor], padding_mask: Tensor | None
    ) -> Tensor:
        """Query, key, value (length, batch, channel) to (length, batch, channel)."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(2, (self.num_heads, -1)).permute(1, 2, 0, 3)
            for x, weight, bias in zip(inputs, weights, biases, strict=True)
        )  # (batch, head, length, channel)
        attended_to = None if padding_mask is None else ~padding_mask[:, None, None]
        with torch.autocast("cpu", enabled=False):
            heads = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attended_to)
        return self.out_proj(heads.permute(2, 0, 1, 3).flatten(2))


def _trains_on_cpu(query: Tensor, key: Tensor, padding_mask: Tensor | None) -> bool:
    """Whether a batch is trained on in mixed precision on the CPU, with a bool mask or none.

    PyTorch takes, or refuses with a reason, other masks, types and single sequences.
    """
    if query.device.type != "cpu" or query.dim() != 3 or query.dtype == torch.float64:
        return False
    if not (torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()):
        return False
    if padding_mask is None:
        return True
    return padding_mask.dtype == torch.bool and padding_mask.shape == (key.shape[1], key.shape[0])
