"""The architecture is inferred from weights."""

import dataclasses

import pytest
import torch

from export.architecture import Architecture, amplify_random_weights
from tests.export.small_files import BOXES, MASKS, build
from util.errors import UserError

VARIANTS = [
    BOXES,
    MASKS,
    dataclasses.replace(BOXES, pre_norm=True, enc_layers=2, position_embedding="learned"),
    dataclasses.replace(BOXES, backbone="resnet50", dilation=True, nheads=2, dec_layers=3),
]


@pytest.mark.parametrize("architecture", VARIANTS)
def test_weights_and_the_two_silent_flags_tell_all(architecture):
    told = {"dilation": architecture.dilation, "nheads": architecture.nheads, "lr": 3}
    found = Architecture.of(build(architecture).state_dict(), told, "file")
    assert found == architecture


@pytest.mark.parametrize("name", ["resnet34", "resnet152", "resnext50_32x4d", "wide_resnet50_2"])
def test_the_backbone_is_inferred_from_its_shapes(name):
    state = dataclasses.replace(BOXES, backbone=name).build().state_dict()
    assert Architecture.of(state, {}, "file").backbone == name


def test_what_nobody_tells_is_the_default():
    found = Architecture.of(build(BOXES).state_dict(), {"nheads": None}, "file")
    assert (found.nheads, found.dilation) == (8, False)


def test_weights_of_something_else():
    with pytest.raises(UserError, match=r"f\.pth: contains no DETR model"):
        Architecture.of({"fc.weight": torch.ones(2)}, {}, "f.pth")
    state = build(BOXES).state_dict()
    state["backbone.0.body.layer1.0.conv1.weight"] = torch.ones(1, 1, 1, 1)
    with pytest.raises(UserError, match="not match any torchvision ResNet"):
        Architecture.of(state, {}, "f.pth")


@pytest.mark.parametrize("nheads", [3, 0, -1, 2.0])
def test_heads_must_divide_the_channels(nheads):
    with pytest.raises(UserError, match=rf"f\.pth: --nheads {nheads} does not divide its 32 cha"):
        Architecture.of(build(BOXES).state_dict(), {"nheads": nheads}, "f.pth")


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone():
    torch.manual_seed(5)
    first, after = BOXES.build(), torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    second = BOXES.build().state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.state_dict().items())


def test_a_amplified_model_tells_queries_apart():
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    plain, amplified = BOXES.build(), build(BOXES)
    with torch.no_grad():
        spread = [model([image[0]])["pred_logits"].std(1).mean() for model in (plain, amplified)]
    assert spread[1] > 10 * spread[0]
    before = amplified.state_dict()["transformer.encoder.layers.0.self_attn.in_proj_weight"].clone()
    amplify_random_weights(amplified)
    after = amplified.state_dict()["transformer.encoder.layers.0.self_attn.in_proj_weight"]
    assert torch.equal(after[:64], before[:64] * 3) and torch.equal(after[64:], before[64:])
