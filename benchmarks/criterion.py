"""Time of matching and loss, forward and backward, compared with the original's algorithm.

    python -m benchmarks.criterion [--device cuda]

Both get the same random predictions: batch size 16, 100 queries, 6 decoder layers, 91 classes,
about 7 objects per image. The original's algorithm is in `benchmarks.oracle_criterion`. Prints
milliseconds of both, their ratio, and the largest difference of losses and gradients.
"""

import torch
from torch import Tensor

from benchmarks import oracle_criterion
from benchmarks.timing import benchmark_parser, compare_times, print_setup
from models.criterion import SetCriterion
from models.matcher import HungarianMatcher

NUM_LAYERS, NUM_CLASSES = 6, 91
LOSS_WEIGHTS = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
MATCHING_WEIGHTS = (1.0, 5.0, 2.0)


def make_batch(
    batch_size: int, num_queries: int, device: str
) -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
    """Random logits (L, B, Q, K) and boxes (L, B, Q, 4), and targets with 4 to 10 objects each."""
    generator = torch.Generator().manual_seed(0)
    shape = (NUM_LAYERS, batch_size, num_queries)
    logits = torch.randn(*shape, NUM_CLASSES + 1, generator=generator).to(device).requires_grad_()
    boxes = torch.rand(*shape, 4, generator=generator).mul(0.8).add(0.1).to(device).requires_grad_()
    targets = []
    for image in range(batch_size):
        count = 4 + image % 7
        size = torch.rand(count, 2, generator=generator) * 0.4 + 0.05
        center = torch.rand(count, 2, generator=generator) * (1 - size) + size / 2
        labels = torch.randint(1, NUM_CLASSES, (count,), generator=generator)
        targets.append(
            {"labels": labels.to(device), "boxes": torch.cat((center, size), 1).to(device)}
        )
    return logits, boxes, targets


def as_outputs(logits: Tensor, boxes: Tensor) -> dict:
    """Predictions in the format of the model's outputs."""
    layers = [{"pred_logits": c, "pred_boxes": b} for c, b in zip(logits, boxes, strict=True)]
    return {**layers[-1], "aux_outputs": layers[:-1]}


def total(losses: dict[str, Tensor]) -> Tensor:
    """The weighted sum of the losses."""
    return sum(
        value * LOSS_WEIGHTS[name.rstrip("_0123456789")]
        for name, value in losses.items()
        if name.startswith("loss")
    )


def main() -> None:
    """Run the benchmark and print the results."""
    parser = benchmark_parser(__doc__, rounds=60)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch_size", type=int, default=16, help="images")
    parser.add_argument("--num_queries", type=int, default=100, help="queries per image")
    args = parser.parse_args()
    logits, boxes, targets = make_batch(args.batch_size, args.num_queries, args.device)
    criterion = SetCriterion(
        NUM_CLASSES,
        HungarianMatcher(*MATCHING_WEIGHTS),
        {},
        0.1,
        ["labels", "boxes", "cardinality"],
    ).to(args.device)

    def step(losses: dict[str, Tensor]) -> list[Tensor]:
        gradients = torch.autograd.grad(total(losses), (logits, boxes))
        if args.device == "cuda":
            torch.cuda.synchronize()
        return [*(losses[key].detach() for key in sorted(losses)), *gradients]

    def ours() -> list[Tensor]:
        return step(criterion(as_outputs(logits, boxes), targets))

    def original() -> list[Tensor]:
        outputs = as_outputs(logits, boxes)
        empty_weight = criterion.empty_weight
        return step(oracle_criterion.losses(outputs, targets, MATCHING_WEIGHTS, empty_weight))

    difference = max(float((a - b).abs().max()) for a, b in zip(original(), ours(), strict=True))
    print_setup(args.rounds)
    times = compare_times({"original": original, "ours": ours}, args.rounds)
    print(f"{args.device}: {times}, largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
