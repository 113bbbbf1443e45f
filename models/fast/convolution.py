"""Convolutions of small feature maps as matrix products; used in mixed precision on CPUs.

For small images, the last ResNet stage has few spatial positions but millions of weights. There,
PyTorch's convolution takes up to 2.7 times as long as a matrix product, forward and backward
(``benchmarks/RESULTS.md``).
"""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SmallMapConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that uses a matrix product for small outputs in mixed precision on a CPU.

    An output is small if the whole batch has fewer spatial positions than channels. All other cases
    use PyTorch's convolution: full precision, other devices, larger outputs, groups, dilation, and
    padding other than zeros.
    """

    @classmethod
    def from_conv(cls, conv: nn.Conv2d) -> Self:
        """Create a module that shares the parameters of ``conv``, without its hooks."""
        new = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
            device="meta",  # the weights are replaced: use no memory or random numbers for them
        )
        new.weight, new.bias = conv.weight, conv.bias
        return new.train(conv.training)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve (B, C, H, W) to (B, out_channels, H', W'); called by `forward`."""
        is_mixed = input.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        is_plain = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        if is_mixed and is_plain and input.dim() == 4 and isinstance(self.padding, tuple):
            height, width = (
                max(0, (side + 2 * padding - kernel) // stride + 1)
                for side, padding, kernel, stride in zip(
                    input.shape[2:], self.padding, self.kernel_size, self.stride, strict=True
                )
            )
            if 0 < len(input) * height * width < self.out_channels:
                patches = self._patches(input, self.padding, height, width)
                rows = weight.permute(0, 2, 3, 1).flatten(1)  # (out_channels, elements * C)
                return F.linear(patches, rows, bias).permute(0, 3, 1, 2)
        return super()._conv_forward(input, weight, bias)

    def _patches(self, input: Tensor, padding: tuple[int, ...], height: int, width: int) -> Tensor:
        """Patches under the kernel, to be multiplied by the weights.

        Args:
            input: (B, C, H, W).
            padding: rows above and below, and columns at the left and right.
            height, width: H' and W'.

        Returns:
            (B, H', W', elements of the kernel * C).
        """
        (down, right), (vertical, horizontal) = self.stride, padding
        padded = F.pad(input, (horizontal, horizontal, vertical, vertical)).permute(0, 2, 3, 1)
        patches = [  # (B, H', W', C) for each element of the kernel
            padded[:, i : i + height * down : down, j : j + width * right : right]
            for i in range(self.kernel_size[0])
            for j in range(self.kernel_size[1])
        ]
        return torch.cat(patches, 3)


def use_small_map_convolutions(network: nn.Module) -> None:
    """Replace every `torch.nn.Conv2d` inside a network by a `SmallMapConv2d`, in place.

    Parameters and their names do not change. Call this before registering hooks on convolutions.
    """
    for name, child in network.named_children():
        if type(child) is nn.Conv2d:
            setattr(network, name, SmallMapConv2d.from_conv(child))
        else:
            use_small_map_convolutions(child)
