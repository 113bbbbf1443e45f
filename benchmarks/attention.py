"""Time of attention in mixed precision on the CPU, against PyTorch's own choice of kernel.

    python -m benchmarks.attention

Both run in turn in this process, forward and backward under autocast to bfloat16, without dropout:
the image attending to itself, queries to the image, queries to each other. PyTorch hands bfloat16
to the fused kernel; `models.fast.attention.Attention` hands it float32. Prints milliseconds for
each, their ratio (medians over rounds) and the largest difference of the outputs.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

from models.fast.attention import Attention

_HEADS = 8
# batch, channels, queries, image cells
_SIZES = {"800 x 1066 pixels, R50": (2, 256, 100, 850), "drawn shapes": (16, 128, 20, 16)}


def time_step(
    attention: nn.Module, query: Tensor, source: Tensor, padding: Tensor | None
) -> tuple[float, Tensor]:
    """Seconds of a step, and its output."""
    attention.zero_grad()
    query.grad = source.grad = None
    start = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = attention(query, source, source, padding, need_weights=False)[0]
    output.float().sum().backward()
    return time.perf_counter() - start, output.detach().float()


def compare(query: Tensor, source: Tensor, padding: Tensor | None, rounds: int) -> str:
    """One line about attention of ``query`` (L, B, C) to ``source`` (S, B, C)."""
    ours = Attention(query.shape[2], _HEADS, 0.0)
    stock = nn.MultiheadAttention(query.shape[2], _HEADS)
    stock.load_state_dict(ours.state_dict())
    seconds: dict[nn.Module, list[float]] = {stock: [], ours: []}
    outputs: dict[nn.Module, Tensor] = {}
    for _ in range(rounds):
        for attention, durations in seconds.items():
            duration, outputs[attention] = time_step(attention, query, source, padding)
            durations.append(duration)
    ms = {attention: statistics.median(one) * 1e3 for attention, one in seconds.items()}
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
    torch.manual_seed(0)
    for name, (batch, channels, num_queries, num_cells) in _SIZES.items():
        queries, image = (
            torch.randn(length, batch, channels).requires_grad_()
            for length in (num_queries, num_cells)
        )
        padding = torch.zeros(batch, num_cells, dtype=torch.bool)
        for kind, inputs in {
            "image to image": (image, image, padding),
            "queries to image": (queries, image, padding),
            "queries to queries": (queries, queries, None),
        }.items():
            print(f"{name}, {kind}: PyTorch {compare(*inputs, args.rounds)}")


if __name__ == "__main__":
    main()
