"""Smoke test of training on a GPU: each precision, boxes and masks, with and without objects.

    python -m benchmarks.cuda.smoke --device cuda

Trains a tiny model for some steps in each combination, and runs ``main.py`` with EMA weights,
gradient accumulation, batch norms and an exact resume. On a GPU the synchronizations per step are
counted. Exit status 1 if a check fails.
"""

import argparse
import contextlib
import io
import itertools
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import main as main_program
from benchmarks.cuda import synchronizations
from benchmarks.experiments.kill_resume import differences, read
from benchmarks.harness.inputs import TINY, flags_of, images, targets
from datasets.shapes.directory import write_shapes
from engine import train_one_epoch
from training.network import build_network
from training.optimization.optimizer_state import build_optimization

PRECISIONS = ("off", "bf16", "fp16")
MODELS = {"boxes": "", "masks": "--masks", "masks on frozen weights": "--masks --frozen_weights x"}
RUNS = {
    "EMA weights": "--ema_decay 0.9",
    "gradient accumulation": "--accum_steps 2",
    "batch norms": "--backbone_norm batch",
    "activation checkpointing": "--activation_checkpointing",
}
GPU_RUNS = {"TF32": "--tf32", "compiled": "--compile --amp bf16"}
_SIZES = ((64, 96), (64, 64))
_MOST_WAITS = 2  # per step: the costs for the matcher, the flags of the last step
_STEPS = 9  # fp16 may skip the first ones, until the loss scale is low enough


class Outcome(NamedTuple):
    """Result of a check.

    Attributes:
        check: what was tried.
        failure: what went wrong; empty: nothing.
        synchronizations: per step between log lines; None: not counted.
        lines: source lines that wait for the GPU.
    """

    check: str
    failure: str = ""
    synchronizations: float | None = None
    lines: tuple[str, ...] = ()


def train_combinations(device: str) -> Iterator[Outcome]:
    """Train in every combination of precision, model, and objects."""
    for amp, model, count in itertools.product(PRECISIONS, MODELS, (3, 0)):
        name = f"{amp}, {model}, {'objects' if count else 'no objects'}"
        yield train_briefly(name, f"{TINY} {MODELS[model]} --amp {amp} --device {device}", count)


def train_briefly(name: str, flags: str, num_objects: int) -> Outcome:
    """Train for some steps: losses must be finite, and weights must change."""
    torch.manual_seed(0)
    args = flags_of(flags)
    model, criterion, _ = build_network(args, None)
    optimizer, _, scaler = build_optimization(args, model)
    batch = images(_SIZES), targets(len(_SIZES), num_objects, _SIZES[0] if args.masks else None)
    trained = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]

    def train(steps: int) -> dict[str, float]:
        """Train on copies of the batch; return the statistics."""
        with contextlib.redirect_stdout(io.StringIO()):
            return train_one_epoch(
                *(model, criterion, [batch] * steps, optimizer, torch.device(args.device)),
                *(0, 0.1, args.amp),
                scaler=scaler,
            )

    loss = train(_STEPS)["loss"]
    has_changed = any(not torch.equal(a, b) for a, b in zip(before, trained, strict=True))
    has_gradient = num_objects > 0 or not args.frozen_weights  # masks need objects
    failure = "the weights have not changed" if has_gradient and not has_changed else ""
    failure = failure if math.isfinite(loss) else f"loss {loss}"
    waits = synchronizations.per_step(train) if torch.cuda.is_available() else None
    if waits is not None and waits > _MOST_WAITS:
        failure = failure or f"more than {_MOST_WAITS} synchronizations per step"
    lines = tuple(synchronizations.warned_lines(lambda: train(_STEPS)))
    return Outcome(name, failure, waits, lines)


def run_main(device: str, folder: Path) -> Iterator[Outcome]:
    """Run ``main.py`` on a tiny dataset in ``folder``, with features that have a state."""
    write_shapes(folder / "data", num_train=8, num_val=2, image_size=64)
    for name, flags in (RUNS if device == "cpu" else RUNS | GPU_RUNS).items():
        checkpoint = _train(folder, name, f"{flags} --epochs 1", device)
        finite = all(bool(v.isfinite().all()) for v in checkpoint["model"].values())
        yield Outcome(name, "" if finite else "a weight is not finite")
    for amp in PRECISIONS:
        flags = f"--amp {amp} --ema_decay 0.9 --auto_resume --deterministic"
        expected = _train(folder, f"{amp}, uninterrupted", f"{flags} --epochs 2", device)
        _train(folder, f"{amp}, resumed", f"{flags} --epochs 1", device)
        found = _train(folder, f"{amp}, resumed", f"{flags} --epochs 2", device)
        yield Outcome(f"exact resume, {amp}", ", ".join(differences(found, expected)[:3]))


def _train(folder: Path, name: str, flags: str, device: str) -> dict[str, Any]:
    """Run ``main.py``; returns its checkpoint without the flags."""
    output = folder / name
    args = flags_of(
        f"{TINY} --coco_path {folder / 'data'} --scales 64 --num_workers 0 --device {device} "
        f"--lr_drop 1000 --lr 1e-3 --output_dir '{output}' {flags}"
    )
    with contextlib.redirect_stdout(io.StringIO()):
        main_program.main(args)
    return read(output / "checkpoint.pth")


def main(argv: Sequence[str] | None = None) -> int:
    """Run all checks, print a table, and return the exit status."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    device = parser.parse_args(argv).device
    print("| check | result | synchronizations per step |\n|---|---|---|")
    failed, lines = False, set()
    with tempfile.TemporaryDirectory() as folder:
        for outcome in (*train_combinations(device), *run_main(device, Path(folder))):
            waits = "" if outcome.synchronizations is None else f"{outcome.synchronizations:.1f}"
            print(f"| {outcome.check} | {outcome.failure or 'passed'} | {waits} |", flush=True)
            failed = failed or bool(outcome.failure)
            lines |= set(outcome.lines)
    print("\n".join(["", "Lines that wait for the GPU:", *sorted(lines)] if lines else []))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
