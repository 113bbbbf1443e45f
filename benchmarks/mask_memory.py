"""Peak memory of a training step and an evaluation with masks, compared with a naive mask head.

    python -m benchmarks.mask_memory [--device cuda]

The naive mask head (`benchmarks.oracle_masks`) computes the masks of all queries at once. Both get
the same random images and weights. Memory is the peak of allocations in addition to the weights,
from PyTorch's profiler on the CPU and from the CUDA counters on a GPU. Prints MiB of both, their
ratio (ours / naive), and the largest difference of losses, gradients and masks.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import oracle_masks
from main import get_args_parser
from models import build_model

Targets = list[dict[str, Tensor]]


def peak_mib(step: Callable[[], Any], device: str) -> tuple[Any, float]:
    """Run ``step``; returns its result and its peak memory in MiB."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = step()
        return result, (torch.cuda.max_memory_allocated() - before) / 2**20
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        result = step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = [e for e in events if e.get("name") == "[memory]" and e["args"]["Device Type"] == 0]
    allocated = peak = 0
    for event in sorted(changes, key=lambda e: e["ts"]):
        allocated += event["args"]["Bytes"]
        peak = max(peak, allocated)
    return result, peak / 2**20


def make_targets(batch_size: int, num_objects: int, size_hw: tuple[int, int]) -> Targets:
    """Targets with rectangular objects, a fifth of the image in height and width."""
    generator = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(batch_size):
        center = torch.rand(num_objects, 2, generator=generator) * 0.8 + 0.1
        boxes = torch.cat((center, torch.full((num_objects, 2), 0.2)), 1)
        masks = torch.zeros(num_objects, *size_hw, dtype=torch.uint8)
        for mask, (x, y) in zip(masks, center.tolist(), strict=True):
            top, left = int((y - 0.1) * size_hw[0]), int((x - 0.1) * size_hw[1])
            mask[top : top + size_hw[0] // 5, left : left + size_hw[1] // 5] = 1
        labels = torch.randint(1, 90, (num_objects,), generator=generator)
        targets.append({"labels": labels, "boxes": boxes, "masks": masks})
    return targets


def build(args: argparse.Namespace, *flags: str) -> tuple[nn.Module, nn.Module]:
    """The default model with random weights and without dropout, and its criterion."""
    argv = ["--masks", "--backbone_weights", "none", "--dropout", "0", "--device", args.device]
    model, criterion, _ = build_model(get_args_parser().parse_args([*argv, *flags]))
    return model.to(args.device), criterion


def measure_training(args: argparse.Namespace, *flags: str) -> None:
    """Measure a forward and backward pass at 640 x 640 pixels."""
    torch.manual_seed(0)
    model, criterion = build(args, *flags)
    model.train()
    images = torch.rand(args.batch_size, 3, 640, 640).to(args.device)
    targets = [
        {k: v.to(args.device) for k, v in target.items()}
        for target in make_targets(args.batch_size, args.objects, (640, 640))
    ]

    def step(forward: Callable[[Any], dict[str, Any]]) -> dict[str, Tensor]:
        model.zero_grad(set_to_none=True)
        losses = criterion(forward(images), targets)
        sum(v * criterion.weight_dict.get(k, 0) for k, v in losses.items()).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        return {k: v.detach() for k, v in {**losses, **gradients}.items()}

    step(model)  # allocates buffers that persist
    compare(
        f"training step {' '.join(flags)}",
        lambda: step(lambda samples: oracle_masks.forward(model, list(samples))),
        lambda: step(model),
        args.device,
    )


def measure_evaluation(args: argparse.Namespace) -> None:
    """Measure a forward pass for one image of 800 x 1333 pixels."""
    model, _ = build(args)
    model.eval()
    image = torch.rand(1, 3, 800, 1333).to(args.device)

    @torch.no_grad()
    def step(forward: Callable[[Any], dict[str, Any]]) -> dict[str, Tensor]:
        return {"pred_masks": forward(image)["pred_masks"]}

    step(model)
    compare(
        "evaluation",
        lambda: step(lambda samples: oracle_masks.forward(model, list(samples))),
        lambda: step(model),
        args.device,
    )


def compare(
    name: str, naive: Callable[[], dict[str, Tensor]], ours: Callable[[], Any], device: str
) -> None:
    """Run both and print peak memory and differences."""
    expected, naive_peak = peak_mib(naive, device)
    result, our_peak = peak_mib(ours, device)
    difference = max(
        float((result[k] - v).abs().max() / v.abs().max().clamp(min=1)) for k, v in expected.items()
    )
    print(
        f"{name}: naive {naive_peak:.0f} MiB, ours {our_peak:.0f} MiB, "
        f"ratio {our_peak / naive_peak:.2f}, largest difference {difference:.1e}",
        flush=True,
    )


def main() -> None:
    """Run the benchmark and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch_size", type=int, default=2, help="images")
    parser.add_argument("--objects", type=int, default=8, help="objects per image")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {args.device}")
    measure_training(args)
    measure_training(args, "--frozen_weights", "made-up")
    measure_evaluation(args)


if __name__ == "__main__":
    main()
