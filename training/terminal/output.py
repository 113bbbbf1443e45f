"""Output during training and evaluation, in the two styles of ``--log_style``, and score tables."""

import argparse
import shlex
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.progress import Progress, score_name
from util.distributed.processes import is_main_process
from util.metric_logger import MetricLogger
from util.options import prints_short
from util.terminal.bar import MAX_WIDTH
from util.terminal.bar_logger import BarLogger
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
# Positions in the 12 COCO numbers.
_COLUMNS = {"AP": 0, "AP50": 1, "AP75": 2, "small": 3, "medium": 4, "large": 5, "AR100": 8}
_ROWS = {"coco_eval_bbox": "boxes", "coco_eval_masks": "masks"}
_QUALITIES = {"PQ_all": "PQ", "PQ_th": "things", "PQ_st": "stuff"}
_VOC_SCORES = {"voc_ap50": "VOC AP50", "voc_ap50_11point": "11-point"}
_WEIGHTS = {"test_": "", "ema_": " (EMA weights)"}
_LABEL_WIDTH = 8
Stats = Mapping[str, Any]


class Output:
    """Log lines like the original's, for files and programs that read them; also the base class.

    Attributes:
        is_short: whether this is a `ShortOutput`.
    """

    is_short = False

    def log_line(self, line: str) -> None:
        """Print a line; the short style omits it."""
        print(line)

    def epoch_logger(self, epoch: int) -> MetricLogger:
        """Logger of a training epoch."""
        return MetricLogger(delimiter="  ")

    def evaluation_logger(self) -> MetricLogger:
        """Logger of an evaluation."""
        return MetricLogger(delimiter="  ")

    def load_scores(self, log: list[dict[str, Any]]) -> None:
        """Read the scores of earlier epochs from the log entries. Unused in this style."""

    def explain(self, sentences: Sequence[str]) -> None:
        """Print explanations of the results of an evaluation."""
        for sentence in sentences:
            print(sentence)

    def scores(self, progress: Progress, stats: Stats, ema_stats: Stats) -> None:
        """Print the scores of an evaluation.

        Args:
            stats: statistics from `engine.evaluate`.
            ema_stats: statistics of the EMA weights; empty without EMA weights.
        """

    def end(self, progress: Progress, folder: Path | None) -> None:
        """Print the output files of a finished run."""

    def close(self) -> None:
        """Restore the terminal, also after an error."""


class ShortOutput(Output):
    """Progress bar, tables of scores, and suggested next commands.

    Args:
        epochs: number of epochs of the whole run.
    """

    is_short = True

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._table = ScoreTable()
        self._started = time.monotonic()
        self._epoch_starts: list[float] = []
        self._epoch = 0
        self._logger = BarLogger("")
        self._score_name = "AP"
        self._explained: set[str] = set()

    def log_line(self, line: str) -> None:
        """Print nothing."""

    def epoch_logger(self, epoch: int) -> MetricLogger:
        """Logger of a training epoch, with a progress bar."""
        self._epoch = epoch
        self._epoch_starts.append(time.monotonic())
        self._logger = BarLogger(f"epoch {epoch}", True, self._run_seconds_left)
        return self._logger

    def evaluation_logger(self) -> MetricLogger:
        """Logger of an evaluation, with a progress bar."""
        self._logger = BarLogger("validation")
        return self._logger

    def load_scores(self, log: list[dict[str, Any]]) -> None:
        """Read the scores of the last evaluation from the log entries."""
        self._table.load_scores(log)

    def explain(self, sentences: Sequence[str]) -> None:
        """Print explanations of the results, each one once per run."""
        for sentence in sentences:
            if sentence not in self._explained:
                print(textwrap.fill(f"Note: {sentence}", MAX_WIDTH, subsequent_indent="      "))
        self._explained.update(sentences)

    def scores(self, progress: Progress, stats: Stats, ema_stats: Stats) -> None:
        """Print a table of the scores with their changes, and the best score so far."""
        self._score_name = score_name(stats)
        print("\n".join(self._table.lines(stats, "test_")))
        if ema_stats:
            print("\n".join(self._table.lines(ema_stats, "ema_")))
        best = progress.best_epoch
        if best is not None:
            weights = " (EMA weights)" if progress.best_weights == "ema" else ""
            score = f"{progress.score_of(best):.3f}"
            print(f"best {self._score_name} so far: {score} in epoch {best}{weights}")
        print(flush=True)

    def end(self, progress: Progress, folder: Path | None) -> None:
        """Print the best epoch, the output files and suggested next commands."""
        seconds = time.monotonic() - self._started
        if is_main_process():
            print("\n".join(closing_lines(progress, self._score_name, seconds, folder)))

    def close(self) -> None:
        """Remove the progress bar."""
        self._logger.close()

    def _run_seconds_left(self, seconds_left: float, seconds_of_training: float) -> float:
        """Estimated seconds to the end of the run.

        Remaining epochs, with their evaluation, are assumed to take as long as the previous ones.

        Args:
            seconds_left: estimated seconds to the end of this training epoch.
            seconds_of_training: estimated seconds of the whole training epoch.
        """
        starts = self._epoch_starts
        whole = (starts[-1] - starts[0]) / (len(starts) - 1) if len(starts) > 1 else 0.0
        whole = max(whole, seconds_of_training)
        epochs_left = self._epochs - self._epoch - 1
        return seconds_left + (whole - seconds_of_training) + epochs_left * whole


def build_output(args: argparse.Namespace) -> Output:
    """Build the output in the style of ``--log_style``."""
    return ShortOutput(args.epochs) if prints_short(args.log_style) else Output()


def closing_lines(
    progress: Progress, score_name: str, seconds: float, folder: Path | None
) -> list[str]:
    """Describe the result of a training run.

    Args:
        score_name: name of the validation score.
        seconds: elapsed time since the run was started or resumed.
        folder: output folder; None: nothing was saved.
    """
    epochs = count(progress.epoch, "epoch")
    lines = [f"Training finished after {epochs}, in {short_duration(seconds)}."]
    best = progress.best_epoch
    if best is not None:
        weights = ", EMA weights" if progress.best_weights == "ema" else ""
        lines[0] += f" Best: epoch {best}, {score_name} {progress.score_of(best):.3f}{weights}."
    if folder is None:
        return [*lines, "Nothing was saved: no --output_dir was given."]
    files = {name: what for name, what in _FILES.items() if (folder / name).exists()}
    lines.append(f"Files in {folder}:")
    lines += [f"  {name:<16}{what}" for name, what in files.items()]
    start = "best.pth" if "best.pth" in files else "checkpoint.pth"
    checkpoint, out = shlex.quote(str(folder / start)), shlex.quote(str(folder))
    predictions = shlex.quote(str(folder / "predictions"))
    ema = " --ema" if start == "best.pth" and progress.best_weights == "ema" else ""
    lines += [
        "Next:",
        f"  python main.py --eval --resume {checkpoint}",
        f"  python predict.py IMAGES --checkpoint {checkpoint}{ema} --output_dir {predictions}",
        f"  python -m report {out}",
    ]
    return lines


class ScoreTable:
    """Formats scores, and stores them to compute the changes at the next evaluation."""

    def __init__(self) -> None:
        self._last: dict[str, Stats] = {}

    def load_scores(self, log: Sequence[Stats]) -> None:
        """Store the last scores in the entries of ``log.txt``."""
        for entry in log:
            for prefix in _WEIGHTS:
                start = len(prefix)
                stats = {k[start:]: v for k, v in entry.items() if k.startswith(prefix)}
                if "coco_eval_bbox" in stats:
                    self._last[prefix] = stats

    def lines(self, stats: Stats, prefix: str = "test_") -> list[str]:
        """Format the table of an evaluation.

        Args:
            stats: statistics from `engine.evaluate`. A score of -1 (no ground truth) is shown as
                ``-``.
            prefix: log prefix of the statistics: ``test_``, or ``ema_`` for EMA weights.
        """
        last = self._last.get(prefix, {})
        self._last[prefix] = stats
        head = "".join(f"{name:>8}" for name in _COLUMNS)
        lines = [f"{'':{_LABEL_WIDTH}}{head}{_WEIGHTS[prefix]}"]
        for key, label in _ROWS.items():
            if key in stats:
                lines += _coco_rows(label, _coco_numbers(stats, key), _coco_numbers(last, key))
        if "PQ_all" in stats:
            lines.append(_labeled_row(_QUALITIES, stats, last))
        if "voc_ap50" in stats:
            lines.append(_labeled_row(_VOC_SCORES, stats, last))
        return lines


def _coco_numbers(stats: Stats, key: str) -> list[float | None]:
    """Scores in the order of the columns; None if there is no score."""
    numbers = stats.get(key) or []
    columns = _COLUMNS.values()
    return [numbers[i] if i < len(numbers) and _is_score(numbers[i]) else None for i in columns]


def _coco_rows(label: str, now: list[float | None], last: list[float | None]) -> list[str]:
    rows = [f"{label:<{_LABEL_WIDTH}}" + "".join(f"{_score(number):>8}" for number in now)]
    changes = [_change(a, b) for a, b in zip(now, last, strict=True)]
    if any(changes):
        rows.append(f"{'  change':<{_LABEL_WIDTH}}" + "".join(f"{text:>8}" for text in changes))
    return rows


def _labeled_row(labels: Mapping[str, str], stats: Stats, last: Stats) -> str:
    """One row of scores with labels and changes; ``labels`` by key of the statistics."""
    entries = []
    for key, label in labels.items():
        now, before = _number(stats.get(key)), _number(last.get(key))
        change = _change(now, before)
        entries.append(f"{label} {_score(now)}" + (f" ({change})" if change else ""))
    return "   ".join(entries)


def _number(entry: Any) -> float | None:
    """Score of an entry, which may be a dict of panoptic quality; None if there is no score."""
    value = entry.get("pq") if isinstance(entry, Mapping) else entry
    return value if _is_score(value) else None


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and value >= 0


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _change(now: float | None, before: float | None) -> str:
    return "" if now is None or before is None else f"{now - before:+.3f}"
