"""Last lines of a training run: best epoch, output files and suggested next commands."""

import shlex
from pathlib import Path

from training.state import RunState
from util.terminal.step_line import short_duration
from util.text import count

# Files of the output folder, with a description.
_FILES = {
    "best.pth": "the checkpoint with the best score",
    "checkpoint.pth": "the newest checkpoint",
    "log.txt": "losses and scores of each epoch",
    "detections.png": "detections next to ground truth",
    "panoptic.png": "panoptic maps next to ground truth",
    "report.html": "curves, errors and examples; opens in a browser",
    "config.txt": "the flags of this run",
}


def closing_lines(
    state: RunState, score_name: str, seconds: float, folder: Path | None
) -> list[str]:
    """Describe the result of a training run.

    Args:
        state: training progress.
        score_name: name of the validation score.
        seconds: elapsed time since the run was started or resumed.
        folder: output folder; None: nothing was saved.
    """
    epochs = count(state.epoch, "epoch")
    lines = [f"Training finished after {epochs}, in {short_duration(seconds)}."]
    best = state.best_epoch
    if best is not None:
        weights = ", EMA weights" if state.best_weights == "ema" else ""
        lines[0] += f" Best: epoch {best}, {score_name} {state.score_of(best):.3f}{weights}."
    if folder is None:
        return [*lines, "Nothing was saved: no --output_dir was given."]
    files = {name: what for name, what in _FILES.items() if (folder / name).exists()}
    lines.append(f"Files in {folder}:")
    lines += [f"  {name:<16}{what}" for name, what in files.items()]
    start = "best.pth" if "best.pth" in files else "checkpoint.pth"
    checkpoint, out = shlex.quote(str(folder / start)), shlex.quote(str(folder))
    predictions = shlex.quote(str(folder / "predictions"))
    ema = " --ema" if start == "best.pth" and state.best_weights == "ema" else ""
    lines += [
        "Next:",
        f"  python main.py --eval --resume {checkpoint}",
        f"  python predict.py IMAGES --checkpoint {checkpoint}{ema} --output_dir {predictions}",
        f"  python -m report {out}",
    ]
    return lines
