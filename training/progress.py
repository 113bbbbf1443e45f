"""Training progress and validation scores."""

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from util.distributed.processes import all_gather

# Lower scores are printed as 0.000: the run has not begun to detect objects.
SMALLEST_SCORE = 0.0005
# Saved in a checkpoint under the key "progress".
PROGRESS_FIELDS = (
    "images_done",
    "train_stats",
    "scores",
    "ema_scores",
    "skipped_steps",
    "bad_images",
    "ema_thresholds",
)


@dataclass
class Progress:
    """Training progress between two optimizer steps.

    Attributes:
        epoch: current epoch from 0, or the next one between epochs.
        images_done: images of the current epoch that all ranks together have trained on.
        step: optimizer steps since the start of the run, skipped steps included.
        meters: running averages of the log in the current epoch, equal on all ranks.
        train_stats: training averages of the last completed epoch; kept so that an interrupted
            evaluation can be repeated.
        scores: validation score by epoch, see `validation_score`.
        ema_scores: validation score of the EMA weights by epoch.
        skipped_steps: number of skipped non-finite steps.
        bad_images: one message per unreadable image that was replaced; in the current epoch only
            images of this rank.
        thresholds: score thresholds of the raw weights, on rank 0 only, see
            `datasets.evaluation.matching.best_thresholds`; None again when the next epoch starts.
        ema_thresholds: the same for the EMA weights.
    """

    epoch: int = 0
    images_done: int = 0
    step: int = 0
    meters: dict[str, Any] = field(default_factory=dict)
    train_stats: dict[str, Any] | None = None
    scores: dict[int, float] = field(default_factory=dict)
    ema_scores: dict[int, float] = field(default_factory=dict)
    skipped_steps: int = 0
    bad_images: list[str] = field(default_factory=list)
    thresholds: dict[str, Any] | None = None
    ema_thresholds: dict[str, Any] | None = None

    @property
    def best_epoch(self) -> int | None:
        """Best-scoring epoch, with raw or EMA weights, or None.

        On ties the earliest epoch counts, but below `SMALLEST_SCORE` the latest, which has been
        trained longest. Epochs with the score -1 do not count: the validation data has no objects.
        """
        scored = [epoch for epoch in self.scores if self.score_of(epoch) >= 0]
        if all(self.score_of(epoch) < SMALLEST_SCORE for epoch in scored):
            return max(scored, default=None)
        return max(scored, key=lambda epoch: (self.score_of(epoch), -epoch))

    @property
    def has_score(self) -> bool:
        """Whether an epoch has reached `SMALLEST_SCORE`."""
        best = self.best_epoch
        return best is not None and self.score_of(best) >= SMALLEST_SCORE

    @property
    def best_weights(self) -> str:
        """Key in a checkpoint of the weights that scored best: ``model``, or ``ema``."""
        best = self.best_epoch
        averaged = best is not None and self.score_of(best) > self.scores[best]
        return "ema" if averaged else "model"

    def score_of(self, epoch: int) -> float:
        """Validation score of an epoch: the better of raw and EMA weights."""
        return max(self.scores[epoch], self.ema_scores.get(epoch, -math.inf))

    def skips_and_replacements(self) -> dict[str, Any]:
        """Log entries for skipped steps and replaced images; empty if there are none."""
        entries = {"skipped_steps": self.skipped_steps, "bad_images": self.bad_images}
        return {name: value for name, value in entries.items() if value}

    def take_scores(self, log: Iterable[Mapping[str, Any]]) -> None:
        """Read the scores of completed epochs from log entries.

        An epoch is evaluated after its checkpoint has been written, so the log may contain one more
        score than the checkpoint. Entries without a score are ignored.
        """
        for entry in log:
            if entry["epoch"] >= self.epoch:
                continue
            for prefix, scores in (("test_", self.scores), ("ema_", self.ema_scores)):
                stats = {name.removeprefix(prefix): value for name, value in entry.items()}
                with contextlib.suppress(KeyError, IndexError, TypeError, ValueError):
                    scores[entry["epoch"]] = validation_score(stats)

    def share_bad_images(self) -> None:
        """Merge the messages of all ranks. Collective: call on every rank."""
        messages = {message for part in all_gather(self.bad_images) for message in part}
        self.bad_images[:] = sorted(messages)  # in place: the loaders append to this list

    def check(self) -> None:
        """Check the values read from a checkpoint.

        Raises:
            ValueError: if a field has an invalid type or value.
        """
        for name in ("epoch", "images_done", "step", "skipped_steps"):
            number = getattr(self, name)
            if type(number) is not int or number < 0:
                raise ValueError(f"{name} is {number!r}")
        kinds = {"scores": dict, "ema_scores": dict, "bad_images": list, "train_stats": dict | None}
        kinds["thresholds"] = kinds["ema_thresholds"] = dict | None
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} is {getattr(self, name)!r}")
        for scores in (self.scores, self.ema_scores):
            if not all(type(k) is int and isinstance(v, float) for k, v in scores.items()):
                raise ValueError(f"scores are {scores!r}")
        if not all(isinstance(message, str) for message in self.bad_images):
            raise ValueError(f"bad_images are {self.bad_images!r}")


def validation_score(stats: dict[str, Any]) -> float:
    """Score for selecting the best epoch: PQ if available, else mask AP, else box AP.

    Args:
        stats: returned by `engine.evaluate`, or read from the log.
    """
    if "PQ_all" in stats:
        score = stats["PQ_all"]["pq"]
    else:
        score = stats.get("coco_eval_masks", stats["coco_eval_bbox"])[0]
    return -1.0 if score is None else float(score)


def score_name(stats: Mapping[str, Any]) -> str:
    """Name of the `validation_score` of some statistics: PQ, mask AP, or AP."""
    if "PQ_all" in stats:
        return "PQ"
    return "mask AP" if "coco_eval_masks" in stats else "AP"
