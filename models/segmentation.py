"""DETR with a mask head, for instance and panoptic segmentation (paper, section 4.4)."""

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from util.nested_tensor import NestedTensor, nested_tensor_from_tensor_list

from .backbone import stage_channels
from .fast.deferred_masks import DeferredMasks
from .mask_losses import dice_loss, sigmoid_focal_loss
from .panoptic import PostProcessPanoptic, PostProcessSegm

if TYPE_CHECKING:
    from .detr import DETR

__all__ = [
    "DETRsegm",
    "MHAttentionMap",
    "MaskHeadSmallConv",
    "PostProcessPanoptic",
    "PostProcessSegm",
    "dice_loss",
    "sigmoid_focal_loss",
]

# Queries per chunk in evaluation; 16 queries take about 0.5 GB for an image of 800 x 1333 pixels.
_QUERIES_AT_ONCE = 16


class DETRsegm(nn.Module):
    """DETR with a mask head: predicts a mask per query (paper, section 4.4 and figure 8).

    Args:
        detr: the detector; its backbone returns the features of all four stages.
        freeze_detr: train only the mask head; batch norms of ``detr`` stay in evaluation mode.
    """

    def __init__(self, detr: "DETR", freeze_detr: bool = False):
        super().__init__()
        # Optimizer states in checkpoints depend on the order of these assignments.
        self.detr = detr
        if freeze_detr:
            detr.requires_grad_(False)
        self.freeze_detr = freeze_detr
        self.needs_targets, self.cls_loss = detr.needs_targets, detr.cls_loss
        hidden_dim: int = detr.transformer.d_model  # type: ignore[assignment]
        num_heads: int = detr.transformer.nhead  # type: ignore[assignment]
        fine_to_coarse = stage_channels(detr.backbone[0])  # type: ignore[index]
        self.bbox_attention = MHAttentionMap(hidden_dim, hidden_dim, num_heads, dropout=0.0)
        self.mask_head = MaskHeadSmallConv(
            hidden_dim + num_heads, fine_to_coarse[-2::-1], hidden_dim
        )

    def train(self, mode: bool = True) -> "DETRsegm":
        """Set the mode; batch norms of a frozen detector stay in evaluation mode."""
        super().train(mode)
        if self.freeze_detr:
            for module in self.detr.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(  # type: ignore[no-untyped-def]
        self, samples: NestedTensor, targets: list[dict[str, Tensor]] | None = None
    ):
        """Predict classes, boxes and masks.

        Args:
            samples, targets: see `models.detr.DETR.forward`.

        Returns:
            the outputs of `models.detr.DETR`, and ``pred_masks``: mask logits (B, Q, H, W) of the
            padded images, at the resolution of the backbone's first stage. In training mode with
            gradients ``pred_masks`` is a `models.fast.deferred_masks.DeferredMasks`, which computes
            masks on request.
        """
        if isinstance(samples, (list, tuple, torch.Tensor)):
            samples = nested_tensor_from_tensor_list(samples)  # type: ignore[arg-type]
        features, positions = self.detr.backbone(samples)
        coarsest = features[-1]
        out, queries, projected, memory = self.detr.detect(coarsest, positions[-1], targets)
        attention = self.bbox_attention(queries, memory, mask=coarsest.mask)
        finer = [features[2].tensors, features[1].tensors, features[0].tensors]
        maps = self.mask_head.image_maps(projected, finer)
        if torch.jit.is_scripting():
            out["pred_masks"] = self._all_masks(attention, maps)
        elif self.training and torch.is_grad_enabled():
            # The criterion computes the masks of the matched queries only.
            out["pred_masks"] = DeferredMasks(self.mask_head, attention, maps)
        else:
            out["pred_masks"] = self._all_masks(attention, maps)
        return out

    def _all_masks(
        self, attention: Tensor, maps: list[Tensor], at_once: int = _QUERIES_AT_ONCE
    ) -> Tensor:
        """Compute mask logits (B, Q, H, W) in chunks of queries, to limit memory.

        ``at_once`` is an argument because TorchScript cannot read globals.
        """
        if torch.jit.is_scripting():
            num_images = attention.shape[0]
        else:  # an exported graph has a fixed number of chunks, whatever the batch size
            num_images = 1 if torch.compiler.is_exporting() else attention.shape[0]
        parts = [
            self.mask_head.batched_masks(part, maps)
            for part in attention.split(max(1, at_once // num_images), dim=1)
        ]
        return torch.cat(parts, dim=1)


class MHAttentionMap(nn.Module):
    """Multi-head attention weights of queries over a feature map, without values.

    Args:
        query_dim: number of channels of queries and feature map.
        hidden_dim: number of channels of the projections.
        num_heads: number of attention heads; must divide ``hidden_dim``.
        dropout: dropout probability of the weights.
        bias: add biases to the projections.
    """

    def __init__(
        self,
        query_dim: int,
        hidden_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.dropout = nn.Dropout(dropout)
        self.q_linear = nn.Linear(query_dim, hidden_dim, bias=bias)
        self.k_linear = nn.Linear(query_dim, hidden_dim, bias=bias)
        for linear in (self.q_linear, self.k_linear):
            nn.init.xavier_uniform_(linear.weight)
            if bias:
                nn.init.zeros_(linear.bias)
        self.normalize_fact = (hidden_dim / num_heads) ** -0.5

    def forward(self, q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute attention weights.

        Args:
            q: queries (B, Q, query_dim).
            k: feature map (B, query_dim, H, W).
            mask: (B, H, W), True = padding; its weights are 0.

        Returns:
            weights (B, Q, num_heads, H, W). The softmax is taken over heads and positions together,
            as in the training of the released weights, so the weights of one head do not sum to 1.
        """
        q = self.q_linear(q)
        k = F.conv2d(k, self.k_linear.weight[:, :, None, None], self.k_linear.bias)
        head_dim = self.hidden_dim // self.num_heads
        q = q.view(q.shape[0], q.shape[1], self.num_heads, head_dim)
        k = k.view(k.shape[0], self.num_heads, head_dim, k.shape[-2], k.shape[-1])
        scores = torch.einsum("bqnc,bnchw->bqnhw", q * self.normalize_fact, k)
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, None], float("-inf"))
        weights = scores.flatten(2).softmax(-1).view_as(scores)
        return self.dropout(weights)


class MaskHeadSmallConv(nn.Module):
    """FPN-like mask head: upsample attention maps to masks, with the backbone's finer features.

    `image_maps` computes the part shared by all queries of an image, once per image; `masks`
    computes the rest for selected queries.

    Args:
        dim: number of channels of the projected image features, plus the number of attention heads.
        fpn_dims: numbers of channels of the backbone's stages 3, 2 and 1.
        context_dim: layers 2 to 5 have this number of channels divided by 2, 4, 8 and 16.
    """

    def __init__(self, dim: int, fpn_dims: list[int], context_dim: int):
        super().__init__()
        widths = [dim, *(context_dim // 2**k for k in range(1, 5))]
        # Optimizer states in checkpoints depend on the order of these assignments.
        self.lay1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.gn1 = _group_norm(dim)
        self.lay2 = nn.Conv2d(dim, widths[1], 3, padding=1)
        self.gn2 = _group_norm(widths[1])
        self.lay3 = nn.Conv2d(widths[1], widths[2], 3, padding=1)
        self.gn3 = _group_norm(widths[2])
        self.lay4 = nn.Conv2d(widths[2], widths[3], 3, padding=1)
        self.gn4 = _group_norm(widths[3])
        self.lay5 = nn.Conv2d(widths[3], widths[4], 3, padding=1)
        self.gn5 = _group_norm(widths[4])
        self.out_lay = nn.Conv2d(widths[4], 1, 3, padding=1)
        self.adapter1 = nn.Conv2d(fpn_dims[0], widths[1], 1)
        self.adapter2 = nn.Conv2d(fpn_dims[1], widths[2], 1)
        self.adapter3 = nn.Conv2d(fpn_dims[2], widths[3], 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, bbox_mask: Tensor, fpns: list[Tensor]) -> Tensor:
        """Compute the masks of all queries.

        Args:
            x: projected features (B, C, H, W).
            bbox_mask: attention maps (B, Q, dim - C, H, W).
            fpns: features of the backbone's stages 3, 2 and 1, all (B, ...) or all (B * Q, ...).

        Returns:
            mask logits (B * Q, 1, H1, W1), at the resolution of the last features in ``fpns``.
        """
        maps = self.image_maps(x, fpns)
        batch_size, num_queries = bbox_mask.shape[:2]
        if fpns[0].shape[0] == batch_size:
            return self.batched_masks(bbox_mask, maps).flatten(0, 1).unsqueeze(1)
        maps[0] = maps[0].repeat_interleave(num_queries, 0)
        index = torch.arange(batch_size * num_queries, device=x.device)
        return self.masks(bbox_mask.flatten(0, 1), maps, index)

    def image_maps(self, x: Tensor, fpns: list[Tensor]) -> list[Tensor]:
        """Compute the part shared by all queries of an image; for the arguments see `forward`.

        The first layer convolves ``x`` and the attention maps together. A convolution is linear, so
        the contribution of ``x`` is computed once per image.

        Returns:
            output of the first layer for ``x``, and the projected features of ``fpns``.
        """
        weight = self.lay1.weight[:, : x.shape[1]]
        return [
            F.conv2d(x, weight, self.lay1.bias, padding=1),
            self.adapter1(fpns[0]),
            self.adapter2(fpns[1]),
            self.adapter3(fpns[2]),
        ]

    def batched_masks(self, attention: Tensor, maps: list[Tensor]) -> Tensor:
        """Compute mask logits (B, Q, H1, W1) from attention maps (B, Q, heads, H, W)."""
        batch_size, num_queries = attention.shape[:2]
        image = torch.arange(batch_size, device=attention.device)
        image = image[:, None].expand(batch_size, num_queries).flatten()
        masks = self.masks(attention.flatten(0, 1), maps, image)
        return masks.view(batch_size, num_queries, masks.shape[-2], masks.shape[-1])

    def masks(self, attention: Tensor, maps: list[Tensor], image: Tensor) -> Tensor:
        """Compute the masks of selected queries.

        Args:
            attention: attention maps of these queries (P, heads, H, W).
            maps: see `image_maps`.
            image: (P,) index of each query's image in the batch.

        Returns:
            mask logits (P, 1, H1, W1).
        """
        weight = self.lay1.weight[:, -attention.shape[1] :]
        x = F.conv2d(attention, weight, padding=1) + maps[0][image]
        x = F.relu(self.gn1(x))
        x = F.relu(self.gn2(self.lay2(x)))
        x = F.relu(self.gn3(self.lay3(_upsample_and_add(x, maps[1][image]))))
        x = F.relu(self.gn4(self.lay4(_upsample_and_add(x, maps[2][image]))))
        x = F.relu(self.gn5(self.lay5(_upsample_and_add(x, maps[3][image]))))
        return self.out_lay(x)


def _group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with 8 groups, or fewer if 8 does not divide ``channels``."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def _upsample_and_add(x: Tensor, finer: Tensor) -> Tensor:
    """Upsample ``x`` to the size of ``finer`` (nearest neighbor) and add ``finer``."""
    return F.interpolate(x, size=finer.shape[-2:], mode="nearest") + finer
