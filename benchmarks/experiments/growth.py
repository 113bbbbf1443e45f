"""How cost grows with image size, batch, queries, objects, annotations and DataLoader workers.

    python -m benchmarks.experiments.growth [--quick] [--output benchmarks/growth.svg]

Draws the original and this project, one panel per quantity, and prints the measured numbers.
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure

from benchmarks import annotations, criterion, inference, loader, training_step
from benchmarks.harness.case import Case, Settings, without_bf16
from benchmarks.harness.coco import write_annotations, write_photos
from benchmarks.harness.inputs import R50, TINY
from benchmarks.harness.report import HEAD, setup, table_line
from benchmarks.harness.run import measure, private_cache
from util.system.precision import has_fast_bf16

Points = Iterator[tuple[int, Case]]


def _by_image_size(settings: Settings) -> Points:
    flags = TINY if settings.quick else R50
    for side in (32, 64) if settings.quick else (256, 384, 544, 800):
        size = (side, side * 4 // 3)
        yield side, inference.case("inference", flags, [size], settings.device, rounds=3)


def _by_batch_size(settings: Settings) -> Points:
    flags = f"{TINY if settings.quick else R50} --dropout 0 --device {settings.device}"
    size = (32, 32) if settings.quick else (256, 256)
    for number in (1, 2) if settings.quick else (1, 2, 4, 8):
        variants = training_step.variants(flags, [size], number)
        yield number, Case(f"training step, batch {number}", variants, 3, tolerance=math.inf)


def _by_queries(settings: Settings) -> Points:
    for number in (5, 10) if settings.quick else (50, 100, 200, 400):
        yield number, criterion.case(4, number, 20, settings.device, rounds=7)


def _by_objects(settings: Settings) -> Points:
    for number in (1, 2) if settings.quick else (1, 5, 20, 60):
        yield number, criterion.case(4, 100, number, settings.device, rounds=7)


def _by_annotations(settings: Settings) -> Points:
    for num_images in (2, 4) if settings.quick else (500, 2000, 8000):
        with tempfile.TemporaryDirectory() as name:
            variants = annotations.variants(write_annotations(Path(name), num_images))
            yield num_images, Case(f"annotations of {num_images} images", variants, 3)


def _by_workers(settings: Settings) -> Points:
    with tempfile.TemporaryDirectory() as name:
        ann_file = write_photos(Path(name), 4 if settings.quick else 32)
        most = 1 if settings.quick else os.cpu_count() or 1
        for workers in (number for number in (0, 1, 2, 4, 8, 16) if number <= most):
            yield workers, loader.epoch_case(ann_file, workers, rounds=3)


class Panel(NamedTuple):
    """A panel of the figure: what grows, and the cases by its value."""

    title: str
    quantity: str
    points: Callable[[Settings], Points]


PANELS = (
    Panel("Inference", "short side in pixels", _by_image_size),
    Panel("Training step", "images per batch", _by_batch_size),
    Panel("Matching and losses", "queries", _by_queries),
    Panel("Matching and losses", "objects per image", _by_objects),
    Panel("Reading annotations", "images in the file", _by_annotations),
    Panel("Loading an epoch", "DataLoader workers", _by_workers),
)
Curves = dict[str, list[tuple[int, float]]]  # (quantity, median) by variant


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all panels, print their numbers, and draw the figure; returns the exit status."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, without meaning")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    default = Path(__file__).resolve().parents[1] / "growth.svg"
    parser.add_argument("--output", type=Path, default=default, help="image file (SVG or PNG)")
    args = parser.parse_args(argv)
    facts = setup("benchmarks.experiments.growth")
    print("\n".join(f"{key}: {value}" for key, value in facts.items()), f"\n\n{HEAD}", sep="")
    settings = Settings(args.quick, args.device)
    with private_cache():
        measured = [(panel, _curves(panel, settings)) for panel in PANELS]
    caption = f"{facts['processor']}, {facts['threads']} threads, torch {torch.__version__}"
    _draw(measured, caption, args.output)
    return 0


def _curves(panel: Panel, settings: Settings) -> Curves:
    """Measure the cases of a panel, and print their rows."""
    curves: Curves = {}
    leave_out = not settings.quick and not has_fast_bf16(torch.device(settings.device))
    for value, case in panel.points(settings):
        measured = without_bf16(case) if leave_out else case
        rows = measure(measured, 1 if settings.quick else None)
        for row in rows:
            print(table_line(row), flush=True)
            curves.setdefault(row.variant, []).append((value, statistics.median(row.values)))
        baseline = rows[0]
        median = statistics.median(baseline.baseline_values)
        curves.setdefault(baseline.baseline, []).append((value, median))
    return curves


def _draw(measured: Sequence[tuple[Panel, Curves]], caption: str, path: Path) -> None:
    """Draw the panels side by side, with logarithmic time."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    grid: Any = figure.subplots(2, 3)
    for axes, (panel, curves) in zip(grid.flat, measured, strict=True):
        for variant, points in sorted(curves.items(), key=lambda item: item[0] != "original"):
            style = "--" if variant == "original" else "-"
            axes.plot(*zip(*points, strict=True), style, marker="o", label=variant)
        axes.set(title=panel.title, xlabel=panel.quantity, ylabel="milliseconds", yscale="log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(caption, fontsize=9)
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
