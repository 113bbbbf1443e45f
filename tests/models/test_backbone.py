"""ResNets as backbones: what is trained, what is loaded, what comes out."""

import argparse
import copy
import re

import pytest
import torch
import torchvision
from torch import nn

from models.backbone import Backbone, FrozenBatchNorm2d, Joiner, build_backbone
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


# ---- frozen batch norm


def test_a_new_frozen_batch_norm_equals_a_new_batch_norm():
    fresh, plain = FrozenBatchNorm2d(3), torch.nn.BatchNorm2d(3).state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in fresh.state_dict().items())
    assert list(fresh.state_dict()) == ["weight", "bias", "running_mean", "running_var"]


def test_frozen_batch_norm_equals_batch_norm_in_evaluation():
    reference = nn.BatchNorm2d(5).double().eval()
    for tensor in (*reference.parameters(), reference.running_mean, reference.running_var):
        tensor.data.uniform_(0.5, 1.5)
    frozen = FrozenBatchNorm2d(5).double().train()
    frozen.load_state_dict(reference.state_dict())  # its num_batches_tracked is dropped
    x = torch.randn(2, 5, 3, 4).double()
    assert torch.allclose(frozen(x), reference(x))
    assert not list(frozen.parameters())
    assert list(frozen.state_dict()) == ["weight", "bias", "running_mean", "running_var"]


def test_frozen_batch_norm_keeps_low_precision():
    assert FrozenBatchNorm2d(5)(torch.ones(1, 5, 2, 2).bfloat16()).dtype == torch.bfloat16


def random_norms(channels):
    """A frozen norm with random buffers, and the same in float64."""
    torch.manual_seed(0)
    frozen = FrozenBatchNorm2d(channels)
    for name in ("weight", "running_var"):
        getattr(frozen, name).uniform_(0.5, 1.5)
    for name in ("bias", "running_mean"):
        getattr(frozen, name).normal_()
    return frozen, copy.deepcopy(frozen).double()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_frozen_batch_norm_rounds_once_in_low_precision(dtype, memory_format):
    frozen, exact = random_norms(7)
    x = torch.randn(2, 7, 5, 6).to(dtype).contiguous(memory_format=memory_format).requires_grad_()
    x64 = x.detach().double().requires_grad_()
    y, y64 = frozen(x), exact(x64)
    grad = torch.randn_like(x)
    y.backward(grad)
    y64.backward(grad.double())
    for found, expected in ((y, y64), (x.grad, x64.grad)):
        assert found.dtype == dtype and found.is_contiguous(memory_format=memory_format)
        # Half a unit in the last place, and the rounding of float32 where terms cancel.
        assert (
            (found.double() - expected).abs()
            <= 0.505 * torch.finfo(dtype).eps * expected.abs() + 2e-6
        ).all()


def test_frozen_batch_norm_keeps_float32_bits():
    frozen, _ = random_norms(7)
    x = torch.randn(2, 7, 5, 6)
    scale = frozen.weight * (frozen.running_var + frozen.eps).rsqrt()
    shift = frozen.bias - frozen.running_mean * scale
    assert torch.equal(frozen(x), x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1))


def test_frozen_batch_norm_saves_no_feature_map_for_backward():
    saved = []
    x = torch.ones(1, 5, 40, 40, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, id):
        FrozenBatchNorm2d(5)(x)
    assert sum(saved) <= 10


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_frozen_batch_norm_in_low_precision_scripts_traces_and_exports():
    frozen, _ = random_norms(5)
    x = torch.randn(2, 5, 3, 4).bfloat16().requires_grad_()
    programs = [torch.jit.script(frozen), torch.jit.trace(frozen, x)]
    programs.append(torch.export.export(frozen, (x,)).module())
    for program in programs:
        assert torch.equal(program(x), frozen(x))


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


def test_fixed_backbone_with_moving_statistics_is_refused():
    with pytest.raises(UserError, match="--backbone_norm"):
        build_backbone(flags(lr_backbone=0, backbone_norm="batch", backbone_weights="none"))
