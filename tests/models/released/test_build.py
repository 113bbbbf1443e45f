"""The models that are built for the entries of hubconf.py."""

import hashlib

import pytest
import torch

from models.released.build import build_released
from models.released.zoo import RELEASED_MODELS


@pytest.mark.parametrize("name", list(RELEASED_MODELS))
def test_models_are_as_the_table_says(name):
    released = RELEASED_MODELS[name]
    with torch.device("meta"):
        model = build_released(name, False, released.num_classes, "none")
    assert sum(p.numel() for p in model.parameters()) == released.num_parameters
    assert hasattr(model, "mask_head") == released.masks
    # Of names and shapes, which are those of the original's models.
    listing = "\n".join(f"{key} {tuple(v.shape)}" for key, v in model.state_dict().items())
    digest = hashlib.sha256(listing.encode()).hexdigest()[:16]
    assert (len(model.state_dict()), digest) == {
        "detr_resnet50": (458, "ae0400e5daf7edea"),
        "detr_resnet50_dc5": (458, "ae0400e5daf7edea"),
        "detr_resnet101": (713, "eecb3065f64227ce"),
        "detr_resnet101_dc5": (713, "eecb3065f64227ce"),
        "detr_resnet50_panoptic": (490, "f112c6f82403541d"),
        "detr_resnet50_dc5_panoptic": (490, "f112c6f82403541d"),
        "detr_resnet101_panoptic": (745, "91a652c1e6a359b2"),
        "detr_demo": (511, "87e0c31f8710b09e"),
    }[name]
