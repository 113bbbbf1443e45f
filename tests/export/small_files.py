"""Small models and checkpoints for the tests of several exporters."""

import copy
import dataclasses
import functools

from datasets.loading.byte_images import Normalization
from export.architecture import Architecture, amplify_random_weights
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
NORMALIZATION = Normalization([0.5, 0.25, 0.0], [0.5, 0.25, 1.0])  # other than ImageNet's
CATEGORIES = {1: "cat", 3: "dog"}
SIZES = ("--check_sizes", "96x128", "70x133", "--check_batches", "1", "3")


def build(architecture):
    """A model with outputs that depend on image and query."""
    return copy.deepcopy(_built(architecture))  # random numbers for a ResNet take long


@functools.lru_cache(maxsize=4)
def _built(architecture):
    model = architecture.build()
    amplify_random_weights(model)
    return model


def source(architecture, **changes):
    changed = dataclasses.replace(architecture, **changes)
    return Source(
        name="small",
        model=build(changed),
        architecture=changed,
        num_classes=changed.num_classes,
        categories=CATEGORIES,
    )


def write_checkpoint(path, architecture=BOXES, flags=None, **entries):
    """Write the entries of a checkpoint of main.py that exporters read, and return its model.

    ``flags`` are added to those of the architecture.
    """
    model = build(architecture)
    args = {**architecture.flags(), "scales": [96, 64], "max_size": 160, **(flags or {})}
    state = model.state_dict()
    write_weights(path, {"model": state, "args": args, "categories": CATEGORIES, **entries})
    return model
