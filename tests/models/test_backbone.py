"""ResNets as backbones: what is trained, what is loaded, what comes out."""

import argparse
import re

import pytest
import torch
import torchvision

from models.backbone import Backbone, Joiner, build_backbone
from models.position_encoding import PositionEmbeddingLearned, PositionEmbeddingSine
from util.errors import UserError
from util.nested_tensor import nested_tensor_from_tensor_list


def build(name="resnet18", train=True, layers=False, dilation=False, **options):
    torch.manual_seed(0)
    return Backbone(name, train, layers, dilation, **{"weights": "none", **options})


def flags(**changes):
    values = {
        "lr_backbone": 1e-5,
        "backbone": "resnet18",
        "masks": False,
        "dilation": False,
        "hidden_dim": 32,
        "position_embedding": "sine",
    }
    return argparse.Namespace(**{**values, **changes})


@pytest.fixture
def downloads(monkeypatch):
    """Requested URLs; every file contains ones."""
    asked = []

    def serve(url, *args, **kwargs):
        asked.append(url)
        state = torchvision.models.resnet18(weights=None).state_dict()
        return {key: torch.ones_like(value) for key, value in state.items()}

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", serve)
    return asked


# ---- structure


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", 512),
        ("resnet34", 512),
        ("resnet50", 2048),
        ("resnext50_32x4d", 2048),
        ("wide_resnet50_2", 2048),
    ],
)
def test_channels_are_read_from_the_module(name, channels):
    backbone = build(name)
    batch = nested_tensor_from_tensor_list([torch.rand(3, 64, 64)])
    assert backbone.num_channels == channels == backbone(batch)["0"].tensors.shape[1]


@pytest.mark.parametrize(("dilation", "stride"), [(False, 32), (True, 16)])
def test_strides_and_masks(dilation, stride):
    backbone = build("resnet50", layers=True, dilation=dilation)
    batch = nested_tensor_from_tensor_list([torch.rand(3, 64, 128), torch.rand(3, 64, 64)])
    features = backbone(batch)
    assert list(features) == ["0", "1", "2", "3"]
    for feature, expected in zip(features.values(), (4, 8, 16, stride), strict=True):
        assert feature.tensors.shape[-2:] == (64 // expected, 128 // expected)
        assert feature.mask.dtype == torch.bool and not feature.mask[0].any()
        half = feature.mask.shape[-1] // 2
        assert not feature.mask[1, :, :half].any() and feature.mask[1, :, half:].all()


@pytest.mark.parametrize("layers", [False, True])
def test_an_image_of_padding_alone_counts_as_an_image_without_padding(layers):
    samples = nested_tensor_from_tensor_list([torch.rand(3, 64, 96), torch.rand(3, 40, 60)])
    samples.mask[1] = True
    for feature in build(layers=layers)(samples).values():
        assert not feature.mask.any()
    samples.mask[1, 0, 0] = False
    for feature in build(layers=layers)(samples).values():
        assert feature.mask[1].sum() == feature.mask[1].numel() - 1


def test_late_stages_are_trained():
    def trained(backbone):
        names = [n for n, p in backbone.named_parameters() if p.requires_grad]
        return {re.match(r"body\.(layer\d|conv1|bn1)", name).group(1) for name in names}

    assert trained(build()) == {"layer2", "layer3", "layer4"}
    assert trained(build(train=False)) == set()
    assert trained(build(norm="batch")) == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}


def test_unknown_names_and_blocks_that_cannot_be_dilated():
    with pytest.raises(UserError, match=r"vgg16.*resnet18"):
        build("vgg16")
    with pytest.raises(UserError, match=r"--dilation: resnet18.*resnet50"):
        build("resnet18", dilation=True)


# ---- weights


def test_imagenet_weights_are_fetched_and_used(downloads):
    backbone = build(weights="imagenet")
    assert len(downloads) == 1 and "resnet18-f37072fd.pth" in downloads[0]
    assert all((value == 1).all() for value in backbone.state_dict().values())


@pytest.mark.parametrize("flag", ["resume", "finetune", "frozen_weights"])
def test_nothing_is_fetched_where_a_checkpoint_brings_the_backbone(downloads, flag):
    build_backbone(flags(**{flag: "some.pth"}))
    assert downloads == []
    build_backbone(flags(**{flag: ""}))
    assert len(downloads) == 1


@pytest.mark.parametrize("error", [OSError("offline"), RuntimeError("invalid hash value")])
def test_weights_out_of_reach(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(UserError, match=f"{error}.*--backbone_weights PATH"):
        build(weights="imagenet")


@pytest.mark.parametrize("prefix", ["", "backbone.0.body.", "detr.backbone.0.body."])
def test_weights_from_a_file(tmp_path, prefix):
    state = torchvision.models.resnet18(weights=None).state_dict()
    renamed = {prefix + key: value for key, value in state.items()}
    torch.save({"model": renamed} if prefix else renamed, tmp_path / "weights.pth")
    backbone = build(weights=str(tmp_path / "weights.pth"))
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, state[key.removeprefix("body.")])


def test_a_file_of_another_backbone(tmp_path):
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth.*--backbone"):
        build("resnet50", weights=str(tmp_path / "w.pth"))


# ---- joiner and builder


def test_joiner_gives_positions_in_the_type_of_the_features():
    joiner = Joiner(build().double(), PositionEmbeddingSine(8, normalize=True))
    features, positions = joiner(nested_tensor_from_tensor_list([torch.rand(3, 64, 96).double()]))
    assert joiner.num_channels == 512
    assert positions[0].dtype == torch.float64
    assert positions[0].shape == (1, 16, 2, 3) == (1, 16, *features[0].tensors.shape[-2:])


def test_joiner_encodes_the_coarsest_map_alone():
    joiner = Joiner(build(layers=True), PositionEmbeddingLearned(8))
    features, positions = joiner(nested_tensor_from_tensor_list([torch.rand(3, 40, 1600)]))
    assert [tuple(feature.tensors.shape[-2:]) for feature in features] == [
        *((10, 400), (5, 200), (3, 100), (2, 50)),
    ]
    assert [tuple(position.shape) for position in positions] == [(1, 16, 2, 50)]


@pytest.mark.parametrize("masks", [False, True])
def test_the_finer_maps_are_for_masks_alone(masks):
    joiner = build_backbone(flags(masks=masks, backbone_weights="none"))
    features, positions = joiner(nested_tensor_from_tensor_list([torch.rand(3, 64, 64)]))
    assert len(features) == len(positions) == (4 if masks else 1)


def test_fixed_backbone_with_moving_statistics_is_refused():
    with pytest.raises(UserError, match="--backbone_norm"):
        build_backbone(flags(lr_backbone=0, backbone_norm="batch", backbone_weights="none"))
