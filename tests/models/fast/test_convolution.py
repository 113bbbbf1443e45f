"""Convolutions as matrix products, in mixed precision and in float32, against PyTorch's own."""

import copy
import io
from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch
from torch import nn

from models.fast import convolution as convolutions
from models.fast.convolution import SmallMapConv2d, use_small_map_convolutions

SHAPES = {
    "3 x 3": {"kernel_size": 3, "padding": 1},
    "3 x 3, stride 2": {"kernel_size": 3, "padding": 1, "stride": 2},
    "1 x 1, stride 2": {"kernel_size": 1, "stride": 2, "bias": False},
    "1 x 5, strides 3 and 2": {"kernel_size": (1, 5), "padding": (0, 2), "stride": (3, 2)},
}


@pytest.fixture(autouse=True)
def has_float32_products(monkeypatch):
    """Whether this is a processor with products in float32; call it to change that."""

    def choose(value):
        monkeypatch.setattr(convolutions, "_uses_products_in_float32", lambda: value)

    choose(False)
    return choose


def mixed_precision():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def outputs_and_gradients(convolution, image, precision):
    """Of the input and every parameter, for a loss in a random direction."""
    image = image.clone().requires_grad_()
    convolution.zero_grad()
    with precision:
        found = convolution(image)
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    (found.float() * direction).sum().backward()
    return [found.detach().float(), image.grad, *(p.grad for p in convolution.parameters())]


def is_left_to_pytorch(convolution, image):
    with patch.object(nn.Conv2d, "_conv_forward", autospec=True) as stock:
        convolution(image)
    return stock.called


@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
def test_small_maps_in_mixed_precision_are_close_to_full_forward_and_backward(options):
    torch.manual_seed(0)
    convolution = SmallMapConv2d(8, 64, **options)
    image = torch.randn(2, 8, 4, 7)
    with mixed_precision():
        assert not is_left_to_pytorch(convolution, image)
    mixed = outputs_and_gradients(convolution, image, mixed_precision())
    full = outputs_and_gradients(convolution, image, nullcontext())
    for found, expected in zip(mixed, full, strict=True):
        assert found.shape == expected.shape
        assert (found - expected).norm() <= 0.02 * expected.norm()


def plain_and_ours(**options):
    torch.manual_seed(0)
    stock = nn.Conv2d(8, 64, **{"kernel_size": 3, "padding": 1, **options})
    return stock, SmallMapConv2d.from_conv(copy.deepcopy(stock))


@pytest.mark.parametrize(
    "options",
    [{"groups": 2}, {"dilation": 2}, {"padding_mode": "reflect"}, {"padding": "same"}],
    ids=["groups", "dilation", "reflection", "padding by name"],
)
def test_other_kinds_of_convolution_are_left_to_pytorch(options):
    stock, ours = plain_and_ours(**options)
    image = torch.randn(1, 8, 4, 7)
    with mixed_precision():
        assert is_left_to_pytorch(ours, image)
        assert torch.equal(ours(image), stock(image))


@pytest.mark.parametrize(
    ("shape", "precision"),
    [
        ((1, 8, 8, 8), mixed_precision),
        ((4, 8, 4, 4), mixed_precision),
        ((0, 8, 4, 4), mixed_precision),
        ((8, 4, 7), mixed_precision),
        ((1, 8, 4, 7), nullcontext),
    ],
    ids=["as many cells as channels", "with the batch", "no image", "no batch", "full precision"],
)
def test_other_inputs_are_left_to_pytorch(shape, precision):
    stock, ours = plain_and_ours()
    image = torch.randn(shape)
    with precision():
        assert is_left_to_pytorch(ours, image)
        assert torch.equal(ours(image), stock(image))


@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_products_in_float32_give_the_same_results_and_gradients(
    options, layout, has_float32_products
):
    torch.manual_seed(0)
    ours = SmallMapConv2d(8, 64, **options)
    image = torch.randn(2, 8, 9, 7).contiguous(memory_format=layout)
    exact = outputs_and_gradients(copy.deepcopy(ours).double(), image.double(), nullcontext())
    has_float32_products(True)
    assert not is_left_to_pytorch(ours, image)
    for found, expected in zip(
        outputs_and_gradients(ours, image, nullcontext()), exact, strict=True
    ):
        assert found.shape == expected.shape
        assert (found - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("padding", [0, 1])
def test_images_without_padding_are_not_copied(padding, has_float32_products):
    stock, ours = plain_and_ours(padding=padding)
    image = torch.randn(1, 8, 6, 6)
    has_float32_products(True)
    with patch.object(convolutions.F, "pad", wraps=convolutions.F.pad) as pad:
        assert (ours(image) - stock(image)).abs().max() < 1e-5
    assert pad.called == bool(padding)


@pytest.mark.parametrize(
    ("options", "size", "is_product"),
    [
        ({}, (15, 17), True),  # 255 positions for 4 * 64
        ({}, (16, 16), False),
        ({"kernel_size": 1, "padding": 0, "stride": 2}, (40, 40), True),
        ({"kernel_size": 1, "padding": 0}, (4, 4), False),
    ],
    ids=["small", "large", "1 x 1 with a stride", "1 x 1"],
)
def test_which_outputs_are_products_in_float32(options, size, is_product, has_float32_products):
    stock, ours = plain_and_ours(**options)
    image = torch.randn(1, 8, *size)
    assert is_left_to_pytorch(ours, image)
    has_float32_products(True)
    assert is_left_to_pytorch(ours, image) != is_product
    assert is_left_to_pytorch(copy.deepcopy(ours).double(), image.double())
    torch.testing.assert_close(ours(image), stock(image))


def test_a_kernel_larger_than_the_map_is_refused():
    _, ours = plain_and_ours(kernel_size=9, padding=0)
    with mixed_precision(), pytest.raises(RuntimeError, match="greater than actual input size"):
        ours(torch.randn(1, 8, 4, 4))


def test_channels_last_weights_get_gradients_of_their_layout():
    _, ours = plain_and_ours()
    nn.utils.convert_conv2d_weight_memory_format(ours, torch.channels_last)
    with mixed_precision():
        assert not is_left_to_pytorch(ours, torch.randn(1, 8, 7, 9))  # 63 cells for 64 channels
        ours(torch.randn(1, 8, 7, 9)).float().sum().backward()
    assert ours.weight.grad.stride() == ours.weight.stride() != ours.weight.contiguous().stride()


def test_convolutions_of_a_network_are_replaced_and_parameters_do_not_change():
    first = nn.Conv2d(4, 8, 3)
    network = nn.Sequential(first, nn.Sequential(nn.Conv2d(8, 8, 1, bias=False)), nn.Linear(8, 8))
    first.weight.requires_grad_(False)
    before, keys = list(network.parameters()), list(network.state_dict())
    state = torch.get_rng_state()
    use_small_map_convolutions(network.eval())
    assert torch.equal(torch.get_rng_state(), state)
    assert list(network.state_dict()) == keys
    assert all(a is b for a, b in zip(network.parameters(), before, strict=True))
    convolutions = network[0], network[1][0]
    assert [type(m) for m in (*convolutions, network[2])] == [SmallMapConv2d] * 2 + [nn.Linear]
    assert not any(module.training for module in convolutions)
    assert type(first) is nn.Conv2d and first.weight is network[0].weight
    assert not network[0].weight.requires_grad


def test_networks_with_them_can_be_copied_and_saved():
    network = nn.Sequential(nn.Conv2d(8, 64, 3, padding=1))
    use_small_map_convolutions(network)
    saved = io.BytesIO()
    torch.save(network, saved)
    saved.seek(0)
    image = torch.randn(1, 8, 4, 7)
    with mixed_precision():
        expected = network(image)
        for other in (copy.deepcopy(network), torch.load(saved, weights_only=False)):
            assert torch.equal(other(image), expected)
            assert type(other[0]) is SmallMapConv2d and other[0].weight is not network[0].weight
