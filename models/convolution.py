"""Convolution of small maps as a product of matrices: quicker in mixed precision on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SmallMapConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that multiplies matrices where its output has fewer cells than channels.

    The last stage of a ResNet is like that for small images: a batch has few cells there, and the
    layer millions of weights. In mixed precision on the CPU PyTorch's convolution takes up to 2.7
    times as long then, forward and backward (``benchmarks/convolution.py``).

    Everything else is left to PyTorch: full precision, other devices, larger maps, groups,
    dilation, padding with other than zeros.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, C, H, W) to (B, out_channels, H', W')."""
        mixed = input.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        plain = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        if mixed and plain and input.dim() == 4 and isinstance(self.padding, tuple):
            height, width = (
                max(0, (side + 2 * around - kernel) // stride + 1)
                for side, around, kernel, stride in zip(
                    input.shape[2:], self.padding, self.kernel_size, self.stride, strict=True
                )
            )
            if 0 < len(input) * height * width < self.out_channels:
                return self._multiply(input, self.padding, height, width)
        return super().forward(input)

    def _multiply(self, input: Tensor, padding: tuple[int, ...], height: int, width: int) -> Tensor:
        """For each of ``height`` times ``width`` cells, what the kernel sees times the weights."""
        (down, right), (vertical, horizontal) = self.stride, padding
        padded = F.pad(input, (horizontal, horizontal, vertical, vertical)).permute(0, 2, 3, 1)
        seen = [  # by each of the kernel's elements, (B, H', W', C)
            padded[:, i : i + height * down : down, j : j + width * right : right]
            for i in range(self.kernel_size[0])
            for j in range(self.kernel_size[1])
        ]
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)  # (out_channels, elements * C)
        return F.linear(torch.cat(seen, 3), weight, self.bias).permute(0, 3, 1, 2)


def use_small_map_convolutions(network: nn.Module) -> None:
    """Turn the convolutions of a network into `SmallMapConv2d`, in place.

    They stay the same modules: weights, names and hooks are kept.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = SmallMapConv2d
