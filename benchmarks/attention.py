"""Time of attention in mixed precision on the CPU, compared with PyTorch's kernel.

    python -m benchmarks.attention

Forward and backward pass under autocast to bfloat16, without dropout: self-attention of the image,
cross-attention of the queries, self-attention of the queries. PyTorch runs the fused kernel in
bfloat16, `models.fast.attention.Attention` in float32. Prints milliseconds of both, their ratio and
the largest difference of the outputs.
"""

import torch
from torch import Tensor, nn

from benchmarks.timing import benchmark_parser, compare_times, print_setup
from models.fast.attention import Attention

_HEADS = 8
# batch size, channels, queries, feature cells
_SIZES = {"800 x 1066 pixels, R50": (2, 256, 100, 850), "shapes": (16, 128, 20, 16)}


def step(
    attention: nn.Module, query: Tensor, source: Tensor, padding_mask: Tensor | None
) -> Tensor:
    """Run a forward and a backward pass, and return the output."""
    attention.zero_grad()
    query.grad = source.grad = None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = attention(query, source, source, padding_mask, need_weights=False)[0]
    output.float().sum().backward()
    return output.detach().float()


def compare(query: Tensor, source: Tensor, padding_mask: Tensor | None, rounds: int) -> str:
    """Compare attention of ``query`` (L, B, C) to ``source`` (S, B, C); returns a line of text."""
    ours = Attention(query.shape[2], _HEADS, 0.0)
    stock = nn.MultiheadAttention(query.shape[2], _HEADS)
    stock.load_state_dict(ours.state_dict())
    inputs = (query, source, padding_mask)
    difference = (step(stock, *inputs) - step(ours, *inputs)).abs().max().item()
    variants = {"PyTorch": lambda: step(stock, *inputs), "ours": lambda: step(ours, *inputs)}
    return f"{compare_times(variants, rounds)}, difference {difference:.1e}"


def main() -> None:
    """Run the benchmark and print the results."""
    args = benchmark_parser(__doc__, rounds=15).parse_args()
    print_setup(args.rounds)
    torch.manual_seed(0)
    for name, (batch_size, channels, num_queries, num_cells) in _SIZES.items():
        queries, image = (
            torch.randn(length, batch_size, channels).requires_grad_()
            for length in (num_queries, num_cells)
        )
        padding_mask = torch.zeros(batch_size, num_cells, dtype=torch.bool)
        for kind, inputs in {
            "image to image": (image, image, padding_mask),
            "queries to image": (queries, image, padding_mask),
            "queries to queries": (queries, queries, None),
        }.items():
            print(f"{name}, {kind}: {compare(*inputs, args.rounds)}")


if __name__ == "__main__":
    main()
