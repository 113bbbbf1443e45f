"""Table of evaluation scores, with their changes since the last evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

# Positions in the 12 COCO numbers.
_COLUMNS = {"AP": 0, "AP50": 1, "AP75": 2, "small": 3, "medium": 4, "large": 5, "AR100": 8}
_ROWS = {"coco_eval_bbox": "boxes", "coco_eval_masks": "masks"}
_QUALITIES = {"PQ_all": "PQ", "PQ_th": "things", "PQ_st": "stuff"}
_VOC_SCORES = {"voc_ap50": "VOC AP50", "voc_ap50_11point": "11-point"}
_WEIGHTS = {"test_": "", "ema_": " (EMA weights)"}
_LABEL_WIDTH = 8

Stats = Mapping[str, Any]


class ScoreTable:
    """Formats scores, and stores them to compute the changes at the next evaluation."""

    def __init__(self) -> None:
        self._last: dict[str, Stats] = {}

    def take_log(self, log: Sequence[Stats]) -> None:
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
