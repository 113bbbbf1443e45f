"""Small models and files with their weights, which tests of several exporters share."""

import dataclasses

from export.architecture import Architecture, liven
from export.source import Source
from export.weights import write_weights
from tests.narrow_resnet import NARROW

BOXES = Architecture(
    backbone="resnet18",
    enc_layers=1,
    dec_layers=1,
    dim_feedforward=16,
    hidden_dim=32,
    nheads=4,
    num_queries=5,
    num_classes=7,
)
MASKS = dataclasses.replace(BOXES, masks=True, nheads=8)
# Fewer operators to trace, and a checkpoint of 1 MB instead of 45.
NARROW_BOXES = dataclasses.replace(BOXES, backbone=NARROW)
NARROW_MASKS = dataclasses.replace(MASKS, backbone=NARROW)
CATEGORIES = {1: "cat", 3: "dog"}
SIZES = ("--check_sizes", "96x128", "70x133", "--check_batches", "1", "3")


def build(architecture):
    """A model whose random weights tell images and queries apart."""
    model = architecture.build()
    liven(model)
    return model


def source(architecture, **changes):
    changed = dataclasses.replace(architecture, **changes)
    return Source("small", build(changed), changed, CATEGORIES)


def write_checkpoint(path, architecture=BOXES):
    """Write a checkpoint as main.py does, as far as exporters read it, and give its model."""
    model = build(architecture)
    args = {**architecture.flags(), "scales": [96, 64], "max_size": 160}
    state = model.state_dict()
    write_weights(path, {"model": state, "args": args, "categories": CATEGORIES})
    return model
