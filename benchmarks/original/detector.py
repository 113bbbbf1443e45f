"""The original's detector with the weights of one of ours: layers, mask head, training step."""

import copy
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter

from benchmarks.original.criterion import MATCHING_WEIGHTS, losses, weighted_sum
from models.backbone import match_resnet
from models.segmentation import DETRsegm
from util.nested_tensor import NestedTensor, nested_tensor_from_tensor_list


class _Backbone(nn.Module):
    def __init__(self, resnet: nn.Module, stages: dict[str, str], channels: int) -> None:
        super().__init__()
        self.body = IntermediateLayerGetter(resnet, return_layers=stages)
        self.channels = channels

    def forward(self, samples: NestedTensor) -> tuple[list[NestedTensor], list[Tensor]]:
        """Return the feature maps and their positional encodings, one per stage."""
        features, positions = [], []
        for feature in self.body(samples.tensors).values():
            padding: Any = samples.mask
            mask = F.interpolate(padding[None].float(), feature.shape[-2:])[0].bool()
            features.append(NestedTensor(feature, mask))
            positions.append(sine_positions(mask, self.channels))
        return features, positions


class _Encoder(nn.Module):
    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class _Decoder(_Encoder):
    def __init__(self, layers: Sequence[nn.Module], channels: int) -> None:
        super().__init__(layers)
        self.norm = nn.LayerNorm(channels)


class Transformer(nn.Module):
    """Encoder and decoder with LayerNorm after each branch.

    Args:
        model: transformer of this project, whose sizes are used.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        first = model.encoder.layers[0]
        sizes = (model.d_model, model.nhead, first.linear1.out_features, first.dropout.p)
        self.encoder = _Encoder([EncoderLayer(*sizes) for _ in model.encoder.layers])
        decoder_layers = [DecoderLayer(*sizes) for _ in model.decoder.layers]
        self.decoder = _Decoder(decoder_layers, model.d_model)

    def forward(
        self, features: Tensor, padding_mask: Tensor, queries: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `models.transformer.Transformer.forward`: decoder outputs of all layers, memory."""
        height, width = features.shape[-2:]
        memory, position = (x.flatten(2).permute(2, 0, 1) for x in (features, positions))
        mask = padding_mask.flatten(1)
        query_pos = queries[:, None].repeat(1, len(features), 1)
        for layer in self.encoder.layers:
            memory = layer(memory, mask, position)
        x, outputs = torch.zeros_like(query_pos), []
        for layer in self.decoder.layers:
            x = layer(x, memory, mask, position, query_pos)
            outputs.append(self.decoder.norm(x))
        states = torch.stack(outputs).transpose(1, 2)
        return states, memory.permute(1, 2, 0).reshape(len(features), -1, height, width)


class Detector(nn.Module):
    """DETR as in the original, with the sizes and the state-dict keys of ``ours``."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.transformer = Transformer(ours.transformer)
        hidden_dim = ours.transformer.d_model
        self.class_embed = nn.Linear(hidden_dim, ours.class_embed.out_features)
        self.bbox_embed = Mlp(hidden_dim)
        self.query_embed = nn.Embedding(ours.num_queries, hidden_dim)
        self.input_proj = nn.Conv2d(ours.input_proj.in_channels, hidden_dim, kernel_size=1)
        body = ours.backbone[0].body
        is_dilated = any(conv.dilation == (2, 2) for conv in _convolutions(body))
        resnet = torchvision.models.get_model(
            match_resnet(ours.state_dict()),
            weights=None,
            norm_layer=FrozenNorm,
            replace_stride_with_dilation=[False, False, is_dilated],
        )
        self.backbone = nn.Sequential(_Backbone(resnet, body.return_layers, hidden_dim))
        self.aux_loss: bool = ours.aux_loss

    def forward(self, samples: Any) -> dict[str, Any]:
        """As `models.detr.DETR.forward`."""
        if not isinstance(samples, NestedTensor):
            samples = nested_tensor_from_tensor_list(samples)
        features, positions = self.backbone(samples)
        return self.predict(self.decode(features[-1], positions[-1])[0])

    def decode(self, feature: NestedTensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `models.detr.DETR.decode`."""
        projected = self.input_proj(feature.tensors)
        queries = self.query_embed.weight
        states, memory = self.transformer(projected, feature.mask, queries, position)
        return states, projected, memory

    def predict(self, states: Tensor) -> dict[str, Any]:
        """As `models.detr.DETR.predict`, with the heads on all decoder layers."""
        logits, boxes = self.class_embed(states), self.bbox_embed(states).sigmoid()
        layers = [{"pred_logits": c, "pred_boxes": b} for c, b in zip(logits, boxes, strict=True)]
        return {**layers[-1], "aux_outputs": layers[:-1]} if self.aux_loss else layers[-1]


class Segmenter(nn.Module):
    """DETR with the mask head of ``model``, as in the original: masks of all queries at once."""

    def __init__(self, model: DETRsegm) -> None:
        super().__init__()
        self.detr = Detector(model.detr)
        self.bbox_attention = copy.deepcopy(model.bbox_attention)
        self.mask_head = copy.deepcopy(model.mask_head)

    def forward(self, samples: Any) -> dict[str, Any]:
        """As `models.segmentation.DETRsegm.forward`, with a tensor as ``pred_masks``."""
        return forward_with_masks(self, samples)


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


def original_of(model: nn.Module) -> Detector | Segmenter:
    """The original's version of a model: same weights, mode, device and trainable parameters.

    Args:
        model: `models.detr.DETR` or `models.segmentation.DETRsegm`, with frozen batch norms, sine
            positions, ReLU and post-norm layers.
    """
    original: Any = Segmenter(model) if isinstance(model, DETRsegm) else Detector(model)
    original.load_state_dict(model.state_dict())
    is_trained = {name: p.requires_grad for name, p in model.named_parameters()}
    for name, parameter in original.named_parameters():
        parameter.requires_grad_(is_trained[name])
    return original.train(model.training).to(next(model.parameters()).device)


def build_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW as in the published recipe, one kernel after the other."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in trained if "backbone" not in name]},
        {"params": [p for name, p in trained if "backbone" in name], "lr": 1e-5},
    ]
    return torch.optim.AdamW(groups, lr=1e-4, weight_decay=1e-4)


def training_step(
    model: Detector,
    optimizer: torch.optim.Optimizer,
    samples: NestedTensor,
    targets: list[dict[str, Tensor]],
    empty_weight: Tensor,
) -> dict[str, float]:
    """Forward pass, losses layer by layer, backward pass, clipping, update; returns the losses."""
    named = losses(model(samples), targets, MATCHING_WEIGHTS, empty_weight)
    optimizer.zero_grad()
    weighted_sum(named).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    return {name: value.item() for name, value in named.items()}


class FrozenNorm(nn.Module):
    """Batch norm with fixed statistics, computed in separate passes over the feature map."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0)):
            self.register_buffer(name, torch.full((channels,), value))
        for name, value in (("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, C, H, W) per channel."""
        mean, var, weight, bias = (
            buffer.reshape(1, -1, 1, 1)
            for buffer in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        scale = weight * (var + 1e-5).rsqrt()
        return x * scale + (bias - mean * scale)


def sine_positions(padding_mask: Tensor, channels: int) -> Tensor:
    """Positional encodings (B, channels, H, W) of a padding mask (B, H, W)."""
    valid = ~padding_mask
    encoded = []
    for axis in (1, 2):
        position = valid.cumsum(axis, dtype=torch.float32)
        last = position.narrow(axis, position.shape[axis] - 1, 1)
        position = position / (last + 1e-6) * 2 * math.pi
        channel = torch.arange(channels // 2, dtype=torch.float32, device=position.device)
        wavelength = 10000 ** (2 * (channel // 2) / (channels // 2))
        angle = position[..., None] / wavelength
        waves = torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=4)
        encoded.append(waves.flatten(3))
    return torch.cat(encoded, dim=3).permute(0, 3, 1, 2)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network, with LayerNorm after each."""

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(channels, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding_mask: Tensor, position: Tensor) -> Tensor:
        """Encode (S, B, C); padding mask (B, S)."""
        query = x + position
        attended = self.self_attn(query, query, x, key_padding_mask=padding_mask)[0]
        x = self.norm1(x + self.dropout(attended))
        hidden = self.dropout(F.relu(self.linear1(x)))
        return self.norm2(x + self.dropout(self.linear2(hidden)))


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward network, with LayerNorm after each."""

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(channels, heads, dropout)
        self.multihead_attn = nn.MultiheadAttention(channels, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, memory: Tensor, padding_mask: Tensor, position: Tensor, queries: Tensor
    ) -> Tensor:
        """Decode (Q, B, C) with the memory (S, B, C) and its padding mask (B, S)."""
        query = x + queries
        x = self.norm1(x + self.dropout(self.self_attn(query, query, x)[0]))
        key = memory + position
        attended = self.multihead_attn(x + queries, key, memory, key_padding_mask=padding_mask)[0]
        x = self.norm2(x + self.dropout(attended))
        hidden = self.dropout(F.relu(self.linear1(x)))
        return self.norm3(x + self.dropout(self.linear2(hidden)))


class Mlp(nn.Module):
    """Three linear layers with ReLU between them; the last has four outputs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (channels, channels, channels, 4)
        pairs = pairwise(widths)
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairs)

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) -> (…, 4)."""
        first, second, last = self.layers
        out: Tensor = last(F.relu(second(F.relu(first(x)))))
        return out


def head_masks(head: Any, x: Tensor, attention: Tensor, fpns: Sequence[Tensor]) -> Tensor:
    """Mask logits (B, Q, H, W) from encoded images (B, C, h, w) and maps (B, Q, heads, h, w).

    Image features are repeated for every query and concatenated with its attention maps.
    """
    batch_size, num_queries = attention.shape[:2]
    repeated = x.repeat_interleave(num_queries, 0)
    x = torch.cat([repeated, attention.flatten(0, 1)], 1)
    x = F.relu(head.gn1(head.lay1(x)))
    x = F.relu(head.gn2(head.lay2(x)))
    for number, features in enumerate(fpns, start=1):
        adapter = getattr(head, f"adapter{number}")
        layer, norm = getattr(head, f"lay{number + 2}"), getattr(head, f"gn{number + 2}")
        finer = adapter(features).repeat_interleave(num_queries, 0)
        x = F.relu(norm(layer(F.interpolate(x, finer.shape[-2:]) + finer)))
    masks: Tensor = head.out_lay(x)
    return masks.view(batch_size, num_queries, *x.shape[-2:])


def forward_with_masks(model: Any, images: Any) -> dict[str, Tensor]:
    """The outputs of `DETRsegm.forward`, with the masks of all queries computed at once."""
    samples = nested_tensor_from_tensor_list(images) if isinstance(images, list) else images
    features, positions = model.detr.backbone(samples)
    states, projected, memory = model.detr.decode(features[-1], positions[-1])
    attention = model.bbox_attention(states[-1], memory, mask=features[-1].mask)
    finer = [feature.tensors for feature in features[-2::-1]]
    masks = head_masks(model.mask_head, projected, attention, finer)
    return {**model.detr.predict(states), "pred_masks": masks}
