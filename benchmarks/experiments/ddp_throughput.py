"""Training throughput of one process, compared with two processes with half the threads each.

    python -m benchmarks.experiments.ddp_throughput

Both train with `engine.train_one_epoch` on the same number of images per step, in alternating
rounds, without data loading. The fastest round of each variant is compared, because other work on
the machine slows rounds down, and slows down synchronizing threads most.
"""

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.harness.inputs import build, images, targets
from engine import EpochContext, train_one_epoch
from training.network import distribute
from util.optimizer import build_optimizer

_CPU = torch.device("cpu")


def main() -> None:
    """Run the benchmark and print the results."""
    args = _parse()
    context = torch.multiprocessing.get_context("spawn")
    turns, results = context.Barrier(2), context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_work, (args, folder, turns, results), nprocs=2)
    rates = [results.get() for _ in range(args.rounds)]
    alone, together = (sorted(rate[i] for rate in rates) for i in range(2))
    print(f"{args.batch_size} images of {args.size} x {args.size} per step, {args.model}")
    for name, sorted_rates in (("1 process", alone), ("2 processes", together)):
        print(f"{name}: {sorted_rates[-1]:.2f} images/s (slowest round {sorted_rates[0]:.2f})")
    print(f"{args.threads} threads in total, ratio {together[-1] / alone[-1]:.2f}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2, help="total threads of each variant")
    parser.add_argument(
        "--batch_size", type=int, default=4, help="images per step, over all processes"
    )
    parser.add_argument("--size", type=int, default=256, help="height and width of an image")
    parser.add_argument(
        "--steps", type=int, default=4, help="timed steps per round, after one warm-up step"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each variant")
    parser.add_argument("--model", default="--backbone resnet50", help="flags of main.py")
    return parser.parse_args()


def _work(rank: int, args: argparse.Namespace, folder: str, turns: Any, results: Any) -> None:
    """Run one of two processes; rank 0 also trains alone while rank 1 waits."""
    for turn in range(args.rounds):
        alone = 0.0
        if rank == 0:
            torch.set_num_threads(args.threads)
            alone = _images_per_second(args, args.batch_size)
        turns.wait()
        torch.set_num_threads(max(1, args.threads // 2))
        rendezvous = f"file://{Path(folder) / f'rendezvous{turn}'}"
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
        together = 2 * _images_per_second(args, args.batch_size // 2)
        dist.destroy_process_group()
        if rank == 0:
            results.put((alone, together))
        turns.wait()


def _images_per_second(args: argparse.Namespace, batch_size: int) -> float:
    """Throughput of this process in images per second."""
    model, criterion = build(args.model)
    parallel = distribute(model)
    optimizer = build_optimizer(model, lr=1e-4, lr_backbone=1e-5, weight_decay=1e-4)
    ends: list[float] = []
    context = EpochContext(after_step=lambda *_: ends.append(time.perf_counter()))
    batch = images([(args.size, args.size)] * batch_size), targets(batch_size, num_objects=7)
    batches = [batch] * (args.steps + 1)
    with contextlib.redirect_stdout(io.StringIO()):
        train_one_epoch(parallel, criterion, batches, optimizer, _CPU, 0, 0.1, context=context)
    return batch_size * args.steps / (ends[-1] - ends[0])


if __name__ == "__main__":
    main()
