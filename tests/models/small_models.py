"""Small models and batches that tests of several modules share."""

import torch

from models.backbone import Backbone, Joiner
from models.detr import DETR
from models.position_encoding import PositionEmbeddingSine
from models.segmentation import DETRsegm
from models.transformer import Transformer
from tests.narrow_resnet import NARROW
from util.box_ops import box_xyxy_to_cxcywh, masks_to_boxes


def build_segmenter(backbone=NARROW, num_queries=4, freeze_detr=False, norm="frozen", dropout=0.1):
    """A segmentation model of 5 classes with 32 channels, the same weights every time."""
    torch.manual_seed(0)
    body = Backbone(backbone, True, True, False, weights="none", norm=norm)
    transformer = Transformer(
        *(32, 4),
        num_encoder_layers=1,
        num_decoder_layers=2,
        dim_feedforward=32,
        dropout=dropout,
        return_intermediate_dec=True,
    )
    joiner = Joiner(body, PositionEmbeddingSine(16, normalize=True))
    detr = DETR(joiner, transformer, num_classes=5, num_queries=num_queries)
    return DETRsegm(detr, freeze_detr=freeze_detr)


def images(*sizes):
    """Random images (3, H, W), the same every time."""
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def targets_for(sizes, counts, dtype=torch.float64):
    """Targets with ``counts`` objects in images of ``sizes``: boxes, labels, rectangular masks."""
    generator = torch.Generator().manual_seed(2)
    targets = []
    for (height, width), count in zip(sizes, counts, strict=True):
        masks = torch.zeros(count, height, width, dtype=torch.uint8)
        for mask in masks:
            top, left = (int(torch.randint(0, n - 12, (), generator=generator)) for n in mask.shape)
            mask[top : top + 12, left : left + 10] = 1
        boxes = box_xyxy_to_cxcywh(masks_to_boxes(masks)) / torch.tensor([width, height] * 2)
        labels = torch.randint(0, 5, (count,), generator=generator)
        targets.append({"labels": labels, "boxes": boxes.to(dtype), "masks": masks})
    return targets
