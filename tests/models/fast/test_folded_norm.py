"""Frozen batch norms computed by the convolutions before them, against separate norms."""

import copy
import io

import pytest
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

from models.backbone import Backbone
from models.fast import convolution
from models.fast.convolution import SmallMapConv2d
from models.fast.folded_norm import FoldedConv2d, FoldedNorm2d, fold_frozen_norms
from models.frozen_norm import FrozenBatchNorm2d
from util.nested_tensor import nested_tensor_from_tensor_list


def randomize_norms(network):
    """Random buffers and another eps for each frozen norm; scales below 1 keep features small."""
    for module in network.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.uniform_(0.3, 0.7)
            module.running_var.uniform_(0.5, 1.5)
            module.bias.normal_()
            module.running_mean.normal_()
            module.eps = 1e-3


def pair_of_backbones(name, dilation=False, layers=True, norm="frozen"):
    """A backbone with separate batch norms, and a copy with folded batch norms."""
    torch.manual_seed(0)
    plain = Backbone(name, True, layers, dilation, weights="none", norm=norm)
    randomize_norms(plain)
    folded = copy.deepcopy(plain)
    fold_frozen_norms(folded)
    return plain, folded


def outputs_and_gradients(backbone, images):
    """All feature maps, and the gradients of the trained parameters for random directions."""
    maps = [feature.tensors for feature in backbone(images).values()]
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(m.shape, generator=generator).to(m.dtype) for m in maps]
    loss = sum((m * d).mean() for m, d in zip(maps, directions, strict=True))
    trained = [p for p in backbone.parameters() if p.requires_grad]
    return [*maps, *torch.autograd.grad(loss, trained)]


def batch(dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    images = [torch.randn(3, *size, generator=generator).to(dtype) for size in ((64, 96), (70, 80))]
    return nested_tensor_from_tensor_list(images)


def error(found, expected):
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize(
    ("name", "dilation"), [("resnet18", False), ("resnet50", True), ("resnext50_32x4d", False)]
)
def test_outputs_and_gradients_equal_separate_norms(name, dilation):
    plain, folded = pair_of_backbones(name, dilation)
    exact = outputs_and_gradients(plain.double(), batch(torch.float64))
    for found, expected in zip(
        outputs_and_gradients(folded.double(), batch(torch.float64)), exact, strict=True
    ):
        assert error(found, expected) < 1e-12
    single = outputs_and_gradients(folded.float(), batch())
    assert all(error(found, expected) < 1e-5 for found, expected in zip(single, exact, strict=True))


def test_mixed_precision_is_nearly_as_exact_as_with_separate_norms():
    plain, folded = pair_of_backbones("resnet18")
    exact = outputs_and_gradients(plain, batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = outputs_and_gradients(folded, batch())
        separate = outputs_and_gradients(plain, batch())
    assert [x.dtype for x in found] == [x.dtype for x in separate]
    errors, errors_separate = (
        sum(error(x, e) for x, e in zip(results, exact, strict=True)) / len(exact)
        for results in (found, separate)
    )
    assert errors < 1.7 * errors_separate < 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_low_precision_are_folded_in_float32(dtype):
    plain, folded = pair_of_backbones("resnet18", layers=False)
    x = torch.randn(2, 3, 32, 32)
    expected = plain.body(x)["0"]
    found = folded.to(dtype).body(x.to(dtype))["0"]
    assert found.dtype == dtype
    assert error(found, expected) < 8 * torch.finfo(dtype).eps


def test_all_batch_norms_are_folded_and_parameters_and_names_do_not_change():
    torch.manual_seed(0)
    backbone = Backbone("resnet50", True, True, False, weights="none").eval()
    state, names = dict(backbone.state_dict()), [name for name, _ in backbone.named_modules()]
    parameters, generator = dict(backbone.named_parameters()), torch.get_rng_state()
    fold_frozen_norms(backbone)
    assert torch.equal(torch.get_rng_state(), generator)
    after = backbone.state_dict()
    assert list(after) == list(state)
    assert all(after[name].data_ptr() == state[name].data_ptr() for name in state)
    assert all(p is parameters[name] for name, p in backbone.named_parameters())
    assert [name for name, _ in backbone.named_modules()] == names
    kinds = [type(module) for module in backbone.modules()]
    assert kinds.count(FoldedConv2d) == kinds.count(FoldedNorm2d) == 53
    assert FrozenBatchNorm2d not in kinds and nn.Conv2d not in kinds
    assert not any(module.training for module in backbone.modules())


def test_maps_saved_for_backward_are_fewer(monkeypatch):
    """Small maps as matrix products in float32 save patches as well; they are left out here."""
    monkeypatch.setattr(convolution, "_uses_products_in_float32", lambda: False)
    saved = {}
    for name, backbone in zip(("plain", "folded"), pair_of_backbones("resnet18"), strict=True):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=sizes: s.append(t.numel()) or t, id
        ):
            backbone(batch())
        saved[name] = sum(sizes)
    assert saved["folded"] <= saved["plain"]


def test_the_bias_of_a_convolution_is_kept():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 5, 3), FrozenBatchNorm2d(5))
    randomize_norms(plain)
    folded = copy.deepcopy(plain)
    fold_frozen_norms(folded)
    x = torch.randn(2, 3, 6, 7)
    assert torch.allclose(folded(x), plain(x), atol=1e-6)
    for network in (plain, folded):
        network(x).square().mean().backward()
    assert torch.allclose(folded[0].bias.grad, plain[0].bias.grad, atol=1e-6)


def test_copies_and_saved_networks_have_norms_of_their_own():
    _, folded = pair_of_backbones("resnet18")
    saved = io.BytesIO()
    torch.save(folded, saved)
    saved.seek(0)
    expected = folded(batch())["3"].tensors
    for other in (copy.deepcopy(folded), torch.load(saved, weights_only=False)):
        assert torch.equal(other(batch())["3"].tensors, expected)
        other.body.bn1.bias.add_(1)
        assert not torch.equal(other(batch())["3"].tensors, expected)
        assert torch.equal(folded(batch())["3"].tensors, expected)


@pytest.mark.parametrize("assign", [False, True])
def test_loaded_statistics_are_used(assign):
    plain, folded = pair_of_backbones("resnet18")
    randomize_norms(plain)
    folded.load_state_dict(copy.deepcopy(plain.state_dict()), assign=assign)
    for found, expected in zip(folded(batch()).values(), plain(batch()).values(), strict=True):
        assert error(found.tensors, expected.tensors) < 1e-5


def test_hooks_of_convolution_and_norm_receive_the_normalized_map():
    plain, folded = pair_of_backbones("resnet18")
    found, expected = [], []
    for name in ("conv1", "bn1"):
        folded.body[name].register_forward_hook(lambda m, x, y: found.append(y.clone()))
    plain.body.bn1.register_forward_hook(lambda m, x, y: expected.append(y.clone()))
    folded(batch())
    plain(batch())
    assert len(found) == 2 and torch.equal(*found)
    assert error(found[0], expected[0]) < 1e-5


class PreActivation(nn.Module):
    """A norm registered right after a convolution, but called before it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), FrozenBatchNorm2d(4)

    def forward(self, x):
        return self.conv(self.norm(x).relu())


class OwnBottleneck(Bottleneck):
    """Calls its modules in another order than torchvision's."""

    def forward(self, x):
        return self.bn1(self.conv1(x).relu())


@pytest.mark.parametrize(
    "block",
    [
        PreActivation,
        lambda: OwnBottleneck(4, 1, norm_layer=FrozenBatchNorm2d),
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), FrozenBatchNorm2d(4)),
        lambda: nn.Sequential(FrozenBatchNorm2d(4), nn.Conv2d(4, 4, 1)),
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 4, 1), FrozenBatchNorm2d(4)),
        lambda: Backbone("resnet18", True, True, False, weights="none", norm="batch"),
    ],
    ids=["pre-activation", "subclass", "relu between", "norm first", "transposed", "trained norms"],
)
def test_other_networks_do_not_change(block):
    network = block()
    kinds = [type(module) for module in network.modules()]
    fold_frozen_norms(network)
    assert [type(module) for module in network.modules()] == kinds


def test_folding_twice_is_folding_once():
    _, folded = pair_of_backbones("resnet18")
    modules = list(folded.modules())
    fold_frozen_norms(folded)
    assert all(a is b for a, b in zip(folded.modules(), modules, strict=True))


def test_small_maps_are_matrix_products_in_mixed_precision():
    _, folded = pair_of_backbones("resnet18", layers=False)
    assert issubclass(FoldedConv2d, SmallMapConv2d)
    x, conv = torch.randn(2, 256, 4, 4), folded.body.layer4[0].conv1
    expected = conv(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert error(conv(x), expected) < 0.01
