"""How far a training run is: everything of a checkpoint that is neither weights nor flags."""

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from util.distributed.processes import all_gather, get_rank
from util.errors import UserError
from util.metric_logger import MetricLogger
from util.random_state import random_state, set_random_state

_PROGRESS = ("images_done", "train_stats", "scores", "ema_scores", "skipped_steps", "bad_images")


@dataclass
class RunState:
    """Where a run stands between two steps.

    Attributes:
        epoch: the epoch under way, or the next one where none is.
        images_done: images of that epoch that all processes together have trained on.
        step: steps of the optimizer since the run began, skipped ones included.
        meters: statistics of the epoch under way, of this process.
        train_stats: averages of the epoch before, where it has just ended; its evaluation may be
            still to come.
        scores: validation score of each epoch that was evaluated, see `validation_score`.
        ema_scores: the same of the averaged weights, for epochs that have them.
        skipped_steps: steps that were not finite and left out.
        bad_images: what was said of each image that could not be read and was replaced; those of
            the epoch under way as far as this process has met them.
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

    @property
    def best_epoch(self) -> int | None:
        """Best-scoring epoch, with raw or averaged weights (the first on ties), or None."""
        return max(self.scores, key=lambda epoch: (self.score_of(epoch), -epoch), default=None)

    @property
    def best_weights(self) -> str:
        """Key in a checkpoint of the weights that scored best: ``model``, or ``ema``."""
        best = self.best_epoch
        averaged = best is not None and self.score_of(best) > self.scores[best]
        return "ema" if averaged else "model"

    def score_of(self, epoch: int) -> float:
        """Validation score of an epoch: the better of raw and averaged weights."""
        return max(self.scores[epoch], self.ema_scores.get(epoch, -math.inf))

    def left_out(self) -> dict[str, Any]:
        """What a line of the log says of steps and images left out so far; nothing, if none."""
        told = {"skipped_steps": self.skipped_steps, "bad_images": self.bad_images}
        return {name: value for name, value in told.items() if value}

    def take_scores(self, log: Iterable[Mapping[str, Any]]) -> None:
        """Learn the scores of epochs that are done from the lines of a log.

        It may know one epoch more than the checkpoint, whose evaluation comes after it. Lines
        without a score are passed over.
        """
        for entry in log:
            if entry["epoch"] >= self.epoch:
                continue
            for prefix, scores in (("test_", self.scores), ("ema_", self.ema_scores)):
                stats = {name.removeprefix(prefix): value for name, value in entry.items()}
                with contextlib.suppress(KeyError, IndexError, TypeError, ValueError):
                    scores[entry["epoch"]] = validation_score(stats)

    def share_bad_images(self) -> None:
        """Learn of those that other processes have met; every process must ask."""
        everywhere = {one for known in all_gather(self.bad_images) for one in known}
        self.bad_images[:] = sorted(everywhere)  # loaders hold this very list

    def gathered(self) -> dict[str, Any]:
        """What a checkpoint holds of it; every process must ask."""
        self.share_bad_images()
        own = {"random": random_state(), "meters": self.meters}
        return {
            # As in the original: the last epoch that is complete.
            "epoch": self.epoch - 1,
            "step": self.step,
            "rng": all_gather(own),
            "progress": {name: getattr(self, name) for name in _PROGRESS},
        }

    @classmethod
    def restored(cls, checkpoint: dict[str, Any]) -> "RunState":
        """The state that a checkpoint holds; of one of the original, the beginning of an epoch.

        The random generators of this process are put back too.

        Raises:
            UserError: what the checkpoint holds of it makes no sense.
        """
        try:
            progress = checkpoint.get("progress", {})
            known = {name: progress[name] for name in _PROGRESS if name in progress}
            state = cls(epoch=checkpoint["epoch"] + 1, step=checkpoint.get("step", 0), **known)
            state._check()
            processes = checkpoint.get("rng", [])
            if get_rank() < len(processes):
                state.meters = processes[get_rank()]["meters"]
                MetricLogger().load_state_dict(state.meters)
                set_random_state(processes[get_rank()]["random"])
        except Exception as err:  # whatever a foreign file holds in these places
            raise UserError(
                f"the checkpoint's state of the run cannot be used ({err}); start from its weights "
                "with --finetune"
            ) from err
        return state

    def _check(self) -> None:
        """Raise a ValueError where a field is nothing that a run could have counted."""
        for name in ("epoch", "images_done", "step", "skipped_steps"):
            number = getattr(self, name)
            if type(number) is not int or number < 0:
                raise ValueError(f"{name} is {number!r}")
        kinds = {"scores": dict, "ema_scores": dict, "bad_images": list, "train_stats": dict | None}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} is {getattr(self, name)!r}")
        for scores in (self.scores, self.ema_scores):
            if not all(type(k) is int and isinstance(v, float) for k, v in scores.items()):
                raise ValueError(f"scores are {scores!r}")
        if not all(isinstance(one, str) for one in self.bad_images):
            raise ValueError(f"bad_images are {self.bad_images!r}")


def validation_score(stats: dict[str, Any]) -> float:
    """The number by which epochs are compared: PQ, else AP of masks, else AP of boxes.

    Args:
        stats: as `engine.evaluate` returns them, or as they stand in the log.
    """
    if "PQ_all" in stats:
        score = stats["PQ_all"]["pq"]
    else:
        score = stats.get("coco_eval_masks", stats["coco_eval_bbox"])[0]
    return -1.0 if score is None else float(score)


def score_name(stats: Mapping[str, Any]) -> str:
    """What `validation_score` of some statistics is: PQ, AP of masks, or AP."""
    if "PQ_all" in stats:
        return "PQ"
    return "AP of masks" if "coco_eval_masks" in stats else "AP"
