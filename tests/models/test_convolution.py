"""Convolutions of small maps in mixed precision, against PyTorch's own."""

from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch
from torch import nn

from models.convolution import SmallMapConv2d, multiply_small_maps

# Rectangular throughout, so that no axis can pass for the other.
SHAPES = {
    "3 x 3": {"kernel_size": 3, "padding": 1},
    "3 x 3, stride 2": {"kernel_size": 3, "padding": 1, "stride": 2},
    "1 x 1, stride 2": {"kernel_size": 1, "stride": 2, "bias": False},
    "1 x 5": {"kernel_size": (1, 5), "padding": (0, 2), "stride": (3, 2)},
}


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
    with patch.object(nn.Conv2d, "forward", autospec=True) as stock:
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


@pytest.mark.parametrize(
    ("size", "precision"),
    [((8, 8), mixed_precision), ((4, 7), nullcontext)],
    ids=["64 cells for 64 channels", "full precision"],
)
def test_larger_maps_and_full_precision_are_left_to_pytorch(size, precision):
    torch.manual_seed(0)
    ours, stock = SmallMapConv2d(8, 64, 3, padding=1), nn.Conv2d(8, 64, 3, padding=1)
    stock.load_state_dict(ours.state_dict())
    image = torch.randn(1, 8, *size)
    with precision():
        assert is_left_to_pytorch(ours, image)
        assert torch.equal(ours(image), stock(image))


def test_plain_convolutions_of_a_network_become_such_ones_and_keep_everything():
    network = nn.Sequential(
        nn.Conv2d(4, 8, 3),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 8, 3, dilation=2),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Linear(8, 8),
    )
    before = dict(network.named_parameters())
    seen = []
    network[0].register_forward_hook(lambda *event: seen.append(event))
    multiply_small_maps(network)
    assert [type(module) is SmallMapConv2d for module in network] == [True, *[False] * 5]
    assert all(before[name] is parameter for name, parameter in network.named_parameters())
    network[0](torch.randn(1, 4, 5, 5))
    assert len(seen) == 1
