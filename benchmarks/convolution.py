"""Time of convolutions of small maps in mixed precision on the CPU, against PyTorch's own.

    python -m benchmarks.convolution

The convolutions of a ResNet's last two stages, as in the recipes for drawn shapes and for an image
of 800 x 1066 pixels. Both variants run in turn in this process, forward and backward under autocast
to bfloat16, with weights in channels-last layout, as main.py trains them. Prints milliseconds for
each, their ratio (medians over rounds) and the relative difference of the weights' gradients, which
is 0 where `models.convolution.SmallMapConv2d` leaves a map to PyTorch.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

from models.convolution import SmallMapConv2d

# batch, channels in, channels out, kernel, stride, height, width
_SIZES = {
    "drawn shapes, 3 x 3 of stage 3": (16, 256, 256, 3, 1, 7, 7),
    "drawn shapes, stage 3 to 4": (16, 256, 512, 3, 2, 7, 7),
    "drawn shapes, shortcut of stage 4": (16, 256, 512, 1, 2, 7, 7),
    "drawn shapes, 3 x 3 of stage 4": (16, 512, 512, 3, 1, 4, 4),
    "800 x 1066 pixels, R50, last 1 x 1": (2, 512, 2048, 1, 1, 25, 34),
    "800 x 1066 pixels, R50, 3 x 3 of stage 4": (2, 512, 512, 3, 1, 25, 34),
}


def time_step(convolution: nn.Module, image: Tensor) -> tuple[float, Tensor]:
    """Seconds of a step, and the gradient of the weights."""
    convolution.zero_grad()
    image.grad = None
    start = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = convolution(image)
    output.backward(output.detach())
    weight: Tensor = convolution.weight.grad  # type: ignore[assignment, union-attr]
    return time.perf_counter() - start, weight


def compare(stock: nn.Conv2d, image: Tensor, rounds: int) -> str:
    """One line about the convolution of ``image`` (B, C, H, W)."""
    nn.utils.convert_conv2d_weight_memory_format(stock, torch.channels_last)
    ours = SmallMapConv2d(
        stock.in_channels, stock.out_channels, stock.kernel_size, stock.stride, stock.padding,
        bias=False,
    )  # fmt: skip
    ours.weight = nn.Parameter(stock.weight.detach().clone())
    seconds: dict[nn.Module, list[float]] = {stock: [], ours: []}
    gradients: dict[nn.Module, Tensor] = {}
    for _ in range(rounds):
        for convolution, durations in seconds.items():
            duration, gradients[convolution] = time_step(convolution, image)
            durations.append(duration)
    ms = {convolution: statistics.median(one) * 1e3 for convolution, one in seconds.items()}
    difference = (gradients[ours] - gradients[stock]).norm() / gradients[stock].norm()
    return (
        f"{ms[stock]:8.1f} ms, ours {ms[ours]:8.1f} ms, ratio {ms[stock] / ms[ours]:.1f}, "
        f"difference {difference:.1e}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25, help="calls of each variant")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.rounds} rounds")
    torch.manual_seed(0)
    for name, (batch, inputs, outputs, kernel, stride, height, width) in _SIZES.items():
        stock = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        image = torch.randn(batch, inputs, height, width, dtype=torch.bfloat16)
        image = image.contiguous(memory_format=torch.channels_last).requires_grad_()
        print(f"{name}: PyTorch {compare(stock, image, args.rounds)}")


if __name__ == "__main__":
    main()
