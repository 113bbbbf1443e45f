"""Convolution of small maps as a product of matrices: quicker in mixed precision on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SmallMapConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that multiplies matrices where a batch has fewer cells than channels.

    The last stage of a ResNet is like that for small images: few cells and millions of weights.
    There PyTorch's bfloat16 convolution on the CPU takes up to three times as long, forward and
    backward, most of it for the gradient of the weights (``benchmarks/convolution.py``). Larger
    maps, other devices and full precision are left to PyTorch.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, C, H, W) to (B, out_channels, H', W')."""
        vertical, horizontal = (int(padding) for padding in self.padding)
        height = (input.shape[2] + 2 * vertical - self.kernel_size[0]) // self.stride[0] + 1
        width = (input.shape[3] + 2 * horizontal - self.kernel_size[1]) // self.stride[1] + 1
        mixed = input.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not mixed or len(input) * height * width >= self.out_channels:
            return super().forward(input)
        # Of each cell of the output a row with what the kernel sees there.
        padded = F.pad(input, (horizontal, horizontal, vertical, vertical)).permute(0, 2, 3, 1)
        seen = [
            padded[:, i :: self.stride[0], j :: self.stride[1]][:, :height, :width]
            for i in range(self.kernel_size[0])
            for j in range(self.kernel_size[1])
        ]
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(torch.cat(seen, 3), weight, self.bias).permute(0, 3, 1, 2)


def multiply_small_maps(network: nn.Module) -> None:
    """Make convolutions such ones where they are plain: one group, not dilated, padded with zeros.

    They stay the same modules: weights, names and hooks are kept.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and _is_plain(module):
            module.__class__ = SmallMapConv2d


def _is_plain(convolution: nn.Conv2d) -> bool:
    in_one_group = convolution.groups == 1 and convolution.dilation == (1, 1)
    zeros_around = convolution.padding_mode == "zeros" and isinstance(convolution.padding, tuple)
    return in_one_group and zeros_around
