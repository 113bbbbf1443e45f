"""Time of convolutions of small maps in mixed precision on the CPU, against PyTorch's own.

    python -m benchmarks.convolution

The convolutions of a ResNet's last two stages, as in the recipes for drawn shapes and for an image
of 800 x 1066 pixels. Both variants run in turn in this process under autocast to bfloat16, with
weights in channels-last layout, as main.py trains them. Prints milliseconds of PyTorch's and ours
and their ratio (medians over rounds), and the largest relative difference of the gradients of input
and weights, which is 0 where `models.fast.convolution.SmallMapConv2d` leaves a map to PyTorch.
"""

import argparse
import copy
import statistics
import time

import torch
from torch import Tensor, nn

from models.fast.convolution import SmallMapConv2d

# batch, channels in, channels out, kernel, stride, height, width
_SIZES = {
    "drawn shapes, 3 x 3 of stage 3": (16, 256, 256, 3, 1, 7, 7),
    "drawn shapes, stage 3 to 4": (16, 256, 512, 3, 2, 7, 7),
    "drawn shapes, shortcut of stage 4": (16, 256, 512, 1, 2, 7, 7),
    "drawn shapes, 3 x 3 of stage 4": (16, 512, 512, 3, 1, 4, 4),
    "800 x 1066 pixels, R50, last 1 x 1": (2, 512, 2048, 1, 1, 25, 34),
    "800 x 1066 pixels, R50, 3 x 3 of stage 4": (2, 512, 512, 3, 1, 25, 34),
}


def run(convolution: nn.Module, image: Tensor, training: bool) -> float:
    """Seconds of a step forward and backward, or forward alone."""
    convolution.zero_grad()
    image.grad = None
    start = time.perf_counter()
    with torch.set_grad_enabled(training), torch.autocast("cpu", dtype=torch.bfloat16):
        output = convolution(image)
    if training:
        output.backward(output.detach())
    return time.perf_counter() - start


def compare(stock: nn.Conv2d, ours: nn.Conv2d, image: Tensor, rounds: int) -> str:
    """Times of training and of evaluation, and how far gradients lie apart."""
    parts = []
    for name, training in {"forward": False, "forward and backward": True}.items():
        seconds: dict[nn.Module, list[float]] = {stock: [], ours: []}
        gradients: dict[nn.Module, list[Tensor]] = {}
        for _ in range(rounds):
            for convolution, durations in seconds.items():
                durations.append(run(convolution, image, training))
                tensors = (image, *convolution.parameters())
                gradients[convolution] = [t.grad for t in tensors if t.grad is not None]
        theirs, mine = (statistics.median(seconds[one]) * 1e3 for one in (stock, ours))
        parts.append(f"{name} {theirs:.1f} ms, ours {mine:.1f} ms, ratio {theirs / mine:.1f}")
    apart = (
        ((a - b).norm() / b.norm()).item()
        for a, b in zip(gradients[ours], gradients[stock], strict=True)
    )
    return f"{'; '.join(parts)}; difference {max(apart):.1e}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25, help="calls of each variant")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.rounds} rounds")
    torch.manual_seed(0)
    for name, (batch, inputs, outputs, kernel, stride, height, width) in _SIZES.items():
        stock = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        nn.utils.convert_conv2d_weight_memory_format(stock, torch.channels_last)
        ours = SmallMapConv2d.from_conv(copy.deepcopy(stock))
        image = torch.randn(batch, inputs, height, width, dtype=torch.bfloat16)
        image = image.contiguous(memory_format=torch.channels_last).requires_grad_()
        print(f"{name}: {compare(stock, ours, image, args.rounds)}")


if __name__ == "__main__":
    main()
