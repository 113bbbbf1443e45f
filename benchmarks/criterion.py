"""Time of matching and loss, forward and backward, against the original's algorithm (kept in the
tests as the oracle).

    python -m benchmarks.criterion [--device cuda]

Both run in turn in this process on the same made-up predictions: batch 16, 100 queries, 6 decoder
layers, 91 classes, about 7 objects an image. Prints milliseconds for each, their ratio (median over
rounds), and the largest difference of the losses and gradients.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor

from models.criterion import SetCriterion
from models.matcher import HungarianMatcher
from tests.models import oracle_criterion

NUM_LAYERS, NUM_CLASSES = 6, 91
LOSS_WEIGHTS = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
MATCHING_WEIGHTS = (1.0, 5.0, 2.0)


def make_batch(
    batch_size: int, num_queries: int, device: str
) -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
    """Random logits (L, B, Q, K) and boxes (L, B, Q, 4) that ask for gradients, and 4 to 10 objects
    an image.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (NUM_LAYERS, batch_size, num_queries)
    logits = torch.randn(*shape, NUM_CLASSES + 1, generator=generator).to(device).requires_grad_()
    boxes = torch.rand(*shape, 4, generator=generator).mul(0.8).add(0.1).to(device).requires_grad_()
    targets = []
    for image in range(batch_size):
        count = 4 + image % 7
        size = torch.rand(count, 2, generator=generator) * 0.4 + 0.05
        centre = torch.rand(count, 2, generator=generator) * (1 - size) + size / 2
        labels = torch.randint(1, NUM_CLASSES, (count,), generator=generator)
        targets.append(
            {"labels": labels.to(device), "boxes": torch.cat((centre, size), 1).to(device)}
        )
    return logits, boxes, targets


def as_outputs(logits: Tensor, boxes: Tensor) -> dict:
    """The dictionary that the model returns."""
    layers = [{"pred_logits": c, "pred_boxes": b} for c, b in zip(logits, boxes, strict=True)]
    return {**layers[-1], "aux_outputs": layers[:-1]}


def total(losses: dict[str, Tensor]) -> Tensor:
    """The weighted sum that is minimised."""
    return sum(
        value * LOSS_WEIGHTS[name.rstrip("_0123456789")]
        for name, value in losses.items()
        if name.startswith("loss")
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=60, help="calls of each variant")
    parser.add_argument("--batch_size", type=int, default=16, help="images")
    parser.add_argument("--num_queries", type=int, default=100, help="queries an image")
    args = parser.parse_args()
    logits, boxes, targets = make_batch(args.batch_size, args.num_queries, args.device)
    criterion = SetCriterion(
        NUM_CLASSES,
        HungarianMatcher(*MATCHING_WEIGHTS),
        {},
        0.1,
        ["labels", "boxes", "cardinality"],
    ).to(args.device)

    def ours() -> dict[str, Tensor]:
        return criterion(as_outputs(logits, boxes), targets)

    def original() -> dict[str, Tensor]:
        outputs = as_outputs(logits, boxes)
        return oracle_criterion.losses(outputs, targets, MATCHING_WEIGHTS, criterion.empty_weight)

    results = {}
    for name, variant in (("original", original), ("ours", ours)):
        losses = variant()
        gradients = torch.autograd.grad(total(losses), (logits, boxes))
        results[name] = [*(losses[key].detach() for key in sorted(losses)), *gradients]
    difference = max(
        float((a - b).abs().max())
        for a, b in zip(results["original"], results["ours"], strict=True)
    )

    times: dict[str, list[float]] = {"original": [], "ours": []}
    for _ in range(args.rounds):
        for name, variant in (("original", original), ("ours", ours)):
            start = time.perf_counter()
            torch.autograd.grad(total(variant()), (logits, boxes))
            if args.device == "cuda":
                torch.cuda.synchronize()
            times[name].append((time.perf_counter() - start) * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads")
    ratio = medians["original"] / medians["ours"]
    print(f"original {medians['original']:.2f} ms, ours {medians['ours']:.2f} ms")
    print(f"{ratio:.2f} times as fast, largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
