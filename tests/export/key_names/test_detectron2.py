"""Detectron2's key names."""

import dataclasses
import re

import pytest
import torch

from export.key_names import from_detectron2, is_detectron2
from tests.export.small_files import BOXES, MASKS, build
from util.errors import UserError


def as_detectron2(key):
    """The name of a key there, as a person would rename it, step by step."""
    if ".body." not in key:
        return key
    head, name = key.split("body.")
    for stage in (4, 3, 2, 1):
        name = name.replace(f"layer{stage}.", f"res{stage + 1}.")
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    name = re.sub(r"bn(\d)\.", r"conv\1.norm.", name)
    return head + "backbone." + (name if name.startswith("res") else "stem." + name)


@pytest.mark.parametrize("architecture", [BOXES, MASKS])
@pytest.mark.parametrize("prefix", ["", "detr."])
def test_a_detr_of_detectron2(architecture, prefix):
    state = build(architecture).state_dict()
    theirs = {prefix + as_detectron2(key): value for key, value in state.items()}
    if prefix:
        theirs |= {"pixel_mean": torch.ones(3), "criterion.empty_weight": torch.ones(3)}
    assert is_detectron2(theirs) and not is_detectron2(state)
    stem = "backbone.0.backbone.stem.conv1.norm.running_var"
    assert any(key.endswith(stem) for key in theirs)
    ours = from_detectron2(theirs, "file")
    assert ours.keys() == state.keys()
    assert all(ours[key] is value for key, value in state.items())


def test_labels_in_a_row_are_reported(capsys):
    for num_classes in (80, 91):
        state = build(dataclasses.replace(BOXES, num_classes=num_classes)).state_dict()
        from_detectron2({as_detectron2(key): value for key, value in state.items()}, "file")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("file: the head has 81 rows: labels are indices of COCO's 80 classes")


def test_a_resnet_alone_becomes_one_of_torchvision():
    state = build(BOXES).state_dict()
    prefix = "backbone.0.body."
    body = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    theirs = {as_detectron2(prefix + k).split("0.backbone.")[1]: v for k, v in body.items()}
    theirs["linear.weight"] = torch.ones(2)  # of the classifier
    ours = from_detectron2(theirs, "file")
    assert ours.keys() == body.keys()


def test_a_resnet_with_something_else_is_refused():
    theirs = {"stem.conv1.weight": torch.ones(1), "rpn.weight": torch.ones(1)}
    with pytest.raises(UserError, match=r"file: 1 keys cannot be converted, the first is rpn"):
        from_detectron2(theirs, "file")
