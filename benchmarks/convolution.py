"""Time of convolutions of small maps in mixed precision on the CPU, compared with PyTorch's.

    python -m benchmarks.convolution

Convolutions of a ResNet's last two stages, for the shapes dataset and for images of 800 x 1066
pixels, under autocast to bfloat16 and with weights in channels-last layout, as in training. Prints
milliseconds of both, their ratio, and the largest relative difference of the gradients of input and
weights. The difference is 0 if `models.fast.convolution.SmallMapConv2d` calls PyTorch's kernel.
"""

import copy

import torch
from torch import Tensor, nn

from benchmarks.timing import benchmark_parser, compare_times, print_setup
from models.fast.convolution import SmallMapConv2d

# batch size, channels in, channels out, kernel, stride, height, width
_SIZES = {
    "shapes, 3 x 3 of stage 3": (16, 256, 256, 3, 1, 7, 7),
    "shapes, stage 3 to 4": (16, 256, 512, 3, 2, 7, 7),
    "shapes, shortcut of stage 4": (16, 256, 512, 1, 2, 7, 7),
    "shapes, 3 x 3 of stage 4": (16, 512, 512, 3, 1, 4, 4),
    "800 x 1066 pixels, R50, last 1 x 1": (2, 512, 2048, 1, 1, 25, 34),
    "800 x 1066 pixels, R50, 3 x 3 of stage 4": (2, 512, 512, 3, 1, 25, 34),
}


def forward(convolution: nn.Module, image: Tensor) -> Tensor:
    """Run a forward pass."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output: Tensor = convolution(image)
    return output


def step(convolution: nn.Module, image: Tensor) -> list[Tensor]:
    """Run a forward and a backward pass, and return the gradients of image and weights."""
    output = forward(convolution, image)
    return list(torch.autograd.grad(output, (image, *convolution.parameters()), output.detach()))


def compare(stock: nn.Conv2d, ours: nn.Conv2d, image: Tensor, rounds: int) -> str:
    """Compare times and gradients of two convolutions; returns a line of text."""
    difference = max(
        ((a - b).norm() / b.norm()).item()
        for a, b in zip(step(ours, image), step(stock, image), strict=True)
    )
    with torch.no_grad():
        inference = compare_times(
            {"PyTorch": lambda: forward(stock, image), "ours": lambda: forward(ours, image)}, rounds
        )
    training = compare_times(
        {"PyTorch": lambda: step(stock, image), "ours": lambda: step(ours, image)}, rounds
    )
    return f"forward {inference}; with backward {training}; difference {difference:.1e}"


def main() -> None:
    """Run the benchmark and print the results."""
    args = benchmark_parser(__doc__, rounds=25).parse_args()
    print_setup(args.rounds)
    torch.manual_seed(0)
    for name, (batch_size, inputs, outputs, kernel, stride, height, width) in _SIZES.items():
        stock = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        nn.utils.convert_conv2d_weight_memory_format(stock, torch.channels_last)
        ours = SmallMapConv2d.from_conv(copy.deepcopy(stock))
        image = torch.randn(batch_size, inputs, height, width, dtype=torch.bfloat16)
        image = image.contiguous(memory_format=torch.channels_last).requires_grad_()
        print(f"{name}: {compare(stock, ours, image, args.rounds)}")


if __name__ == "__main__":
    main()
