"""Attention of a training step in mixed precision on a CPU, without dropout, forward and backward.

Baseline: PyTorch's fused kernel in bfloat16; `models.fast.attention.Attention` uses float32.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.harness.case import Case, Settings
from models.fast.attention import Attention

NEEDS_FAST_BF16 = True
TITLE = "CPU only: attention in mixed precision (baseline: PyTorch's kernel)"
_HEADS = 8
# batch size, channels, queries, feature-map positions
_SIZES = {"R50, 800 x 1066 pixels": (2, 256, 100, 850), "shapes": (16, 128, 20, 16)}
_QUICK = {"tiny": (1, 16, 3, 4)}


def cases(settings: Settings) -> Iterator[Case]:
    """Self-attention of the image, cross-attention and self-attention of the queries."""
    torch.manual_seed(0)
    for name, (batch_size, channels, num_queries, num_cells) in (
        _QUICK if settings.quick else _SIZES
    ).items():
        queries, image = (
            torch.randn(length, batch_size, channels).requires_grad_()
            for length in (num_queries, num_cells)
        )
        padding_mask = torch.zeros(batch_size, num_cells, dtype=torch.bool)
        yield _case(f"{name}, image to image", image, image, padding_mask)
        yield _case(f"{name}, queries to image", queries, image, padding_mask)
        yield _case(f"{name}, queries to queries", queries, queries, None)


def _case(name: str, query: Tensor, source: Tensor, padding_mask: Tensor | None) -> Case:
    """Attention of ``query`` (L, B, C) to ``source`` (S, B, C)."""
    ours = Attention(query.shape[2], _HEADS, 0.0)
    stock = nn.MultiheadAttention(query.shape[2], _HEADS)
    stock.load_state_dict(ours.state_dict())

    def step(attention: nn.Module) -> Callable[[], Tensor]:
        """Build a forward and backward pass of one attention module."""

        def run() -> Tensor:
            """Return the output; gradients go to the query and the weights."""
            attention.zero_grad()
            query.grad = source.grad = None
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = attention(query, source, source, padding_mask, need_weights=False)[0]
            output.float().sum().backward()
            result: Tensor = output.detach().float()
            return result

        return run

    return Case(name, {"PyTorch": step(stock), "this project": step(ours)}, 15, tolerance=0.01)
