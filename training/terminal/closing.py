"""The last lines of a training: its best epoch, its files and the next commands."""

import shlex
from pathlib import Path

from training.state import RunState
from util.terminal.step_line import short_duration
from util.visualize.contact_sheet import count

# Files of the output folder, and what they are for.
_FILES = {
    "best.pth": "the checkpoint with the best score",
    "checkpoint.pth": "the newest checkpoint",
    "log.txt": "losses and scores of each epoch",
    "detections.png": "detections beside ground truth",
    "panoptic.png": "panoptic maps beside ground truth",
    "report.html": "curves, errors and examples; opens in a browser",
    "config.txt": "the flags of this run",
}


def closing_lines(
    state: RunState, score_name: str, seconds: float, folder: Path | None
) -> list[str]:
    """Describe a finished training.

    Args:
        state: progress of the run.
        score_name: name of the score by which epochs are compared.
        seconds: time that this start of the run has taken.
        folder: of the run; None: nothing was kept.
    """
    epochs = count(state.epoch, "epoch")
    lines = [f"Training has ended after {epochs}, in {short_duration(seconds)}."]
    best = state.best_epoch
    if best is not None:
        weights = ", averaged weights" if state.best_weights == "ema" else ""
        lines[0] += f" Best: epoch {best}, {score_name} {state.score_of(best):.3f}{weights}."
    if folder is None:
        return [*lines, "Nothing was kept: there was no --output_dir."]
    files = {name: what for name, what in _FILES.items() if (folder / name).exists()}
    lines.append(f"Files in {folder}:")
    lines += [f"  {name:<16}{what}" for name, what in files.items()]
    start = "best.pth" if "best.pth" in files else "checkpoint.pth"
    checkpoint, out = shlex.quote(str(folder / start)), shlex.quote(str(folder))
    predictions = shlex.quote(str(folder / "predictions"))
    lines += [
        "Next:",
        f"  python main.py --eval --resume {checkpoint}",
        f"  python predict.py IMAGES --checkpoint {checkpoint} --output_dir {predictions}",
        f"  python -m report {out}",
    ]
    return lines
