"""The table of released models."""

import re

import pytest

from models.released.zoo import RELEASED_MODELS, released_by_file

MODELS = list(RELEASED_MODELS.values())


def test_files_end_in_their_hash_and_are_all_different():
    assert all(re.fullmatch(r"[0-9a-f]{8}", model.sha256_prefix) for model in MODELS)
    assert len({model.url for model in MODELS}) == len(MODELS)


def test_an_entry_in_full():
    model = RELEASED_MODELS["detr_resnet101_dc5"]
    assert model.url == "https://dl.fbaipublicfiles.com/detr/detr-r101-dc5-a2e86def.pth"
    assert model.sha256_prefix == "a2e86def"
    assert (model.backbone, model.dilation, model.masks) == ("resnet101", True, False)
    assert (model.box_ap, model.box_ap50, model.num_classes) == (44.9, 64.7, 91)


@pytest.mark.parametrize("name", RELEASED_MODELS)
def test_names_and_properties_agree(name):
    model = RELEASED_MODELS[name]
    assert ("101" in name) == (model.backbone == "resnet101") == ("r101" in model.file)
    assert ("dc5" in name) == model.dilation == ("dc5" in model.file)
    assert ("panoptic" in name) == model.masks == (model.pq is not None)
    assert max(model.category_names) < model.num_classes


def test_files_are_known_by_their_names():
    dc5 = RELEASED_MODELS["detr_resnet50_dc5"]
    assert released_by_file(f"/x/{dc5.file}") is released_by_file(dc5.url) is dc5
    assert released_by_file("own.pth") is None
