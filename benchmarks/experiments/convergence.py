"""Draw the AP of training runs over optimizer steps, and print it as a table.

    python -m benchmarks.experiments.convergence FOLDER … --output docs/images/convergence.png

A folder holds the log.txt of a run; benchmarks/convergence_runs has the logs, in part, of
docs/convergence.md. Runs whose names differ only in the seed (``NAME_s42``, ``NAME_s43``) are drawn
as their mean and range.
"""

import argparse
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

Curve = list[tuple[int, float, float]]  # optimizer steps, AP, AP50


def read_curve(log: Path, steps_per_epoch: int, name: str = "test_coco_eval_bbox") -> Curve:
    """AP and AP50 after each evaluated epoch of a log.txt; ``name`` is the field of the metrics."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return [
        ((entry["epoch"] + 1) * steps_per_epoch, *entry[name][:2])
        for entry in entries
        if name in entry
    ]


def by_name(folders: Sequence[Path], steps_per_epoch: int) -> dict[str, list[Curve]]:
    """Curves of all seeds, of raw and of EMA weights, by name of the run without the seed."""
    runs = defaultdict(list)
    for folder in folders:
        name = re.sub(r"_s\d+$", "", folder.name)
        runs[name].append(read_curve(folder / "log.txt", steps_per_epoch))
        averaged = read_curve(folder / "log.txt", steps_per_epoch, "ema_coco_eval_bbox")
        if averaged:
            runs[f"{name}, EMA weights"].append(averaged)
    return dict(runs)


def table(runs: Mapping[str, Sequence[Curve]]) -> str:
    """A Markdown table of the scores during and at the end of each run: mean over seeds, and range.

    "At a third" is the first evaluation at or after a third of the steps.
    """
    names = ["run", "seeds", "steps", "AP at a third", "AP at two thirds", "AP", "AP50"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for name, curves in runs.items():
        steps = max(curve[-1][0] for curve in curves)
        aps = [[_ap_after(curve, thirds / 3) for curve in curves] for thirds in (1, 2, 3)]
        scores = map(_described, [*aps, [curve[-1][2] for curve in curves]])
        lines.append(f"| {name} | {len(curves)} | {steps} | {' | '.join(scores)} |")
    return "\n".join(lines)


def _ap_after(curve: Curve, fraction: float) -> float:
    """AP of the first evaluation at or after this fraction of the steps."""
    return next(ap for steps, ap, _ in curve if steps >= fraction * curve[-1][0])


def _described(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"


def draw(runs: Mapping[str, Sequence[Curve]]) -> Figure:
    """One line per run: mean AP over the seeds, with its range as an area."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, curves in runs.items():
        steps = [step for step, _, _ in curves[0]]
        aps = [[ap for _, ap, _ in points] for points in zip(*curves, strict=True)]
        (line,) = axes.plot(steps, [statistics.mean(values) for values in aps], "o-", label=name)
        low, high = [min(values) for values in aps], [max(values) for values in aps]
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2)
    axes.set(xlabel="optimizer steps", ylabel="AP")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders with the log.txt of a run")
    parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--steps_per_epoch", type=int, default=250)
    args = parser.parse_args(argv)
    runs = by_name(args.folders, args.steps_per_epoch)
    draw(runs).savefig(args.output, dpi=110)
    print(table(runs))


if __name__ == "__main__":
    main()
