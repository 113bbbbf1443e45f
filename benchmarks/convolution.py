"""Convolutions of small feature maps in mixed precision on a CPU, weights in channels-last layout.

Baseline: PyTorch's kernel. The difference is 0 where `models.fast.convolution.SmallMapConv2d` uses
it too.
"""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.harness.case import Case, Settings
from models.fast.convolution import SmallMapConv2d

NEEDS_FAST_BF16 = True
TITLE = "CPU only: convolutions of small maps (baseline: PyTorch's kernel)"
# batch size, channels in, channels out, kernel, stride, height, width
_SIZES = {
    "shapes, 3 x 3 of stage 3": (16, 256, 256, 3, 1, 7, 7),
    "shapes, stage 3 to 4": (16, 256, 512, 3, 2, 7, 7),
    "shapes, shortcut of stage 4": (16, 256, 512, 1, 2, 7, 7),
    "shapes, 3 x 3 of stage 4": (16, 512, 512, 3, 1, 4, 4),
    "R50, 800 x 1066 pixels, last 1 x 1": (2, 512, 2048, 1, 1, 25, 34),
    "R50, 800 x 1066 pixels, 3 x 3 of stage 4": (2, 512, 512, 3, 1, 25, 34),
}
_QUICK = {"tiny": (1, 8, 16, 3, 1, 2, 2)}


def cases(settings: Settings) -> Iterator[Case]:
    """Convolutions of a ResNet's last two stages."""
    torch.manual_seed(0)
    for name, (batch_size, inputs, outputs, kernel, stride, height, width) in (
        _QUICK if settings.quick else _SIZES
    ).items():
        stock = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        nn.utils.convert_conv2d_weight_memory_format(stock, torch.channels_last)
        ours = SmallMapConv2d.from_conv(copy.deepcopy(stock))
        image = torch.randn(batch_size, inputs, height, width, dtype=torch.bfloat16)
        image = image.contiguous(memory_format=torch.channels_last).requires_grad_()
        for direction, run in (("forward", _forward), ("forward and backward", _step)):
            variants = {"PyTorch": run(stock, image), "this project": run(ours, image)}
            yield Case(f"{name}, {direction}", variants, rounds=25, tolerance=0.02)


def _forward(convolution: nn.Module, image: Tensor) -> Callable[[], Tensor]:
    """A forward pass without gradients."""

    def run() -> Tensor:
        """Return the output."""
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            output: Tensor = convolution(image)
        return output

    return run


def _step(convolution: nn.Module, image: Tensor) -> Callable[[], list[Tensor]]:
    """A forward and a backward pass; returns the gradients of image and weights."""

    def run() -> list[Tensor]:
        """Return the gradients."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = convolution(image)
        leaves = (image, *convolution.parameters())
        return list(torch.autograd.grad(output, leaves, output.detach()))

    return run
