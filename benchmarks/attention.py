"""Time of attention in mixed precision on the CPU, against PyTorch's own choice of kernel.

    python -m benchmarks.attention

Both run in turn in this process, forward and backward under autocast to bfloat16, on the sizes that
training meets: the image attending to itself, queries to the image, queries to each other. PyTorch
hands bfloat16 to the fused kernel; `models.transformer.Attention` hands it float32. Prints
milliseconds for each, their ratio (medians over rounds) and the largest difference of the outputs.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

from models.transformer import Attention

_HEADS = 8
# batch, channels, queries, image cells
_SIZES = {"800 x 1066 pixels, R50": (2, 256, 100, 850), "drawn shapes": (16, 128, 20, 16)}


def time_step(attention: nn.Module, inputs: list[Tensor]) -> tuple[float, Tensor]:
    """Seconds of a step, and its output."""
    attention.zero_grad()
    start = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = attention(*inputs, need_weights=False)[0]
    output.float().sum().backward()
    return time.perf_counter() - start, output.detach().float()


def compare(batch: int, channels: int, length: int, source_length: int, rounds: int) -> str:
    """One line about a size."""
    torch.manual_seed(0)
    ours = Attention(channels, _HEADS, 0.0)
    stock = nn.MultiheadAttention(channels, _HEADS)
    stock.load_state_dict(ours.state_dict())
    query, source = (torch.randn(n, batch, channels) for n in (length, source_length))
    inputs = [x.requires_grad_() for x in (query, source, source.clone())]
    padding = torch.zeros(batch, source_length, dtype=torch.bool)
    seconds: dict[nn.Module, list[float]] = {stock: [], ours: []}
    outputs: dict[nn.Module, Tensor] = {}
    for _ in range(rounds):
        for attention, taken in seconds.items():
            second, outputs[attention] = time_step(attention, [*inputs, padding])
            taken.append(second)
    ms = {attention: statistics.median(taken) * 1e3 for attention, taken in seconds.items()}
    difference = (outputs[stock] - outputs[ours]).abs().max().item()
    return (
        f"{ms[stock]:8.1f} ms, ours {ms[ours]:8.1f} ms, ratio {ms[stock] / ms[ours]:.1f}, "
        f"difference {difference:.1e}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="calls of each variant")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.rounds} rounds")
    for name, (batch, channels, queries, cells) in _SIZES.items():
        for kind, length, source in (
            ("image to image", cells, cells),
            ("queries to image", queries, cells),
            ("queries to queries", queries, queries),
        ):
            result = compare(batch, channels, length, source, args.rounds)
            print(f"{name}, {kind}: PyTorch {result}")


if __name__ == "__main__":
    main()
