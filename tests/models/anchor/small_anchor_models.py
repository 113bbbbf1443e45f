"""Small models with anchor queries, and batches, for the tests of this folder."""

import torch

from models.anchor.detr import AnchorDETR, AnchorTransformer
from models.backbone import Backbone, Joiner
from models.focal import use_focal_scores
from models.position_encoding import CellCenterEncoding
from tests.narrow_resnet import NARROW
from util.nested_tensor import nested_tensor_from_tensor_list

CHANNELS = 16
NUM_CLASSES = 5
SIZES = [(64, 96), (80, 64), (64, 64)]


def build_transformer(num_layers=2, seed=0, **options):
    torch.manual_seed(seed)
    transformer = AnchorTransformer(CHANNELS, 2, 1, num_layers, 20, 0.0, **options)
    with torch.no_grad():  # offsets and scales other than their constant initial values
        for mlp in (transformer.decoder.offset_mlp, transformer.decoder.scale_mlp):
            mlp.layers[-1].weight.normal_(std=0.3)
    return transformer


def build_anchor_detr(num_queries=6, denoising=2, aux_loss=True, num_layers=2, overlap_penalty=0):
    """A model without dropout and with frozen batch norms, the same weights every time."""
    transformer = build_transformer(num_layers)
    body = Backbone(NARROW, True, False, False, weights="none")
    joiner = Joiner(body, CellCenterEncoding(CHANNELS // 2))
    options = aux_loss, denoising, overlap_penalty
    model = AnchorDETR(joiner, transformer, NUM_CLASSES, num_queries, *options)
    use_focal_scores(model)
    return model


def batch(counts, seed=1, dtype=torch.float32):
    """A padded batch and its targets, with ``counts`` objects."""
    generator = torch.Generator().manual_seed(seed)
    sizes = SIZES[: len(counts)]
    images = [torch.rand(3, *size, generator=generator, dtype=dtype) for size in sizes]
    targets = [
        {
            "labels": torch.randint(0, NUM_CLASSES, (count,), generator=generator),
            "boxes": torch.rand(count, 4, generator=generator, dtype=dtype) * 0.4 + 0.2,
        }
        for count in counts
    ]
    return nested_tensor_from_tensor_list(images), targets
