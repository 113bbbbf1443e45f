"""A stand-in for DETR that has little more than the keys and shapes of one."""

import torch
from torch import nn


class TinyDetr(nn.Module):
    """The keys and shapes of a DETR from which its flags are inferred, and little else."""

    def __init__(self, classes=3, queries=4, width=8, layers=1, pre_norm=False, channels=5):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 2, dim_feedforward=16)
        decoder_layer = nn.TransformerDecoderLayer(width, 2, dim_feedforward=16)
        self.transformer = nn.Module()
        self.transformer.encoder = nn.Module()
        self.transformer.encoder.layers = nn.ModuleList([layer for _ in range(layers)])
        self.transformer.decoder = nn.Module()
        self.transformer.decoder.layers = nn.ModuleList([decoder_layer])
        if pre_norm:
            self.transformer.encoder.norm = nn.LayerNorm(width)
        self.class_embed = nn.Linear(width, classes + 1)
        self.query_embed = nn.Embedding(queries, width)
        self.input_proj = nn.Conv2d(channels, width, 1)
        body = nn.ModuleDict({"conv1": nn.Conv2d(3, channels, 1), "bn1": nn.BatchNorm2d(channels)})
        self.backbone = nn.Sequential(nn.ModuleDict({"body": body}), nn.Module())


class TinySegmenter(nn.Module):
    """A detector inside a segmentation model."""

    def __init__(self, **options):
        super().__init__()
        self.detr = TinyDetr(**options)
        self.mask_head = nn.ModuleDict({"lay1": nn.Conv2d(2, 2, 1)})


def same_weights(left: nn.Module, right: nn.Module) -> bool:
    theirs = right.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in left.state_dict().items())
