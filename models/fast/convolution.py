"""Convolutions as matrix products for training on CPUs, where PyTorch's convolutions are slower.

For small images, the last ResNet stage has few spatial positions but millions of weights. There,
PyTorch's convolution takes up to 2.7 times as long as a matrix product in mixed precision, forward
and backward. In float32 without AVX-512, PyTorch's weight gradients of small maps and of 1 x 1
convolutions with a stride take up to 12 times as long (``benchmarks/RESULTS.md``).
"""

import math
from functools import cache
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .onednn_linear import is_onednn_faster, linear


class SmallMapConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that uses a matrix product for small outputs on a CPU.

    - Mixed precision: outputs with fewer spatial positions (of the whole batch) than channels.
    - Float32, see `_uses_products_in_float32`: fewer than four times the channels; and 1 x 1
      convolutions with a stride, of all sizes.
    - PyTorch's convolution: all else, such as groups, dilation, padding other than zeros.
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
        is_plain = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        most = self._max_positions(input, weight)
        if most and is_plain and input.dim() == 4 and isinstance(self.padding, tuple):
            height, width = (
                max(0, (side + 2 * padding - kernel) // stride + 1)
                for side, padding, kernel, stride in zip(
                    input.shape[2:], self.padding, self.kernel_size, self.stride, strict=True
                )
            )
            if 0 < len(input) * height * width < most:
                patches = self._patches(input, self.padding, height, width)
                rows = weight.permute(0, 2, 3, 1).flatten(1)  # (out_channels, elements * C)
                return linear(patches, rows, bias).permute(0, 3, 1, 2)
        return super()._conv_forward(input, weight, bias)

    def _max_positions(self, input: Tensor, weight: Tensor) -> float:
        """Outputs with fewer spatial positions are computed as a product; 0: none."""
        if input.device.type != "cpu":
            return 0
        if torch.is_autocast_enabled("cpu"):
            return self.out_channels
        is_float32 = input.dtype == weight.dtype == torch.float32
        if torch.compiler.is_compiling() or not (is_float32 and _uses_products_in_float32()):
            return 0
        if max(self.kernel_size) > 1:
            return 4 * self.out_channels
        return math.inf if max(self.stride) > 1 else 0

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
        around = (horizontal, horizontal, vertical, vertical)
        padded = F.pad(input, around) if any(padding) else input  # padding by 0 copies
        padded = padded.permute(0, 2, 3, 1)
        patches = [  # (B, H', W', C) for each element of the kernel
            padded[:, i : i + height * down : down, j : j + width * right : right]
            for i in range(self.kernel_size[0])
            for j in range(self.kernel_size[1])
        ]
        return torch.cat(patches, 3)


@cache
def _uses_products_in_float32() -> bool:
    """Whether float32 convolutions become products: with oneDNN, on CPUs without AVX-512."""
    has_avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return is_onednn_faster() and not has_avx512


def use_small_map_convolutions(network: nn.Module) -> None:
    """Replace every `torch.nn.Conv2d` inside a network by a `SmallMapConv2d`, in place.

    Parameters and their names do not change. Call this before registering hooks on convolutions.
    """
    for name, child in network.named_children():
        if type(child) is nn.Conv2d:
            setattr(network, name, SmallMapConv2d.from_conv(child))
        else:
            use_small_map_convolutions(child)
