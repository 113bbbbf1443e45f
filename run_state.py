"""How far a training run is: everything of a checkpoint that is neither weights nor flags."""

from dataclasses import dataclass, field
from typing import Any

from util.distributed import all_gather, get_rank
from util.errors import UserError
from util.random_state import random_state, set_random_state


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
        skipped_steps: steps that were not finite and left out.
        bad_images: what was said of each image that could not be read and was replaced.
    """

    epoch: int = 0
    images_done: int = 0
    step: int = 0
    meters: dict[str, Any] = field(default_factory=dict)
    train_stats: dict[str, Any] | None = None
    scores: dict[int, float] = field(default_factory=dict)
    skipped_steps: int = 0
    bad_images: list[str] = field(default_factory=list)

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the highest score, of equal ones the first; None without any."""
        return max(self.scores, key=lambda epoch: (self.scores[epoch], -epoch), default=None)

    def left_out(self) -> dict[str, Any]:
        """What a line of the log says of steps and images left out so far; nothing, if none."""
        told = {"skipped_steps": self.skipped_steps, "bad_images": self.bad_images}
        return {name: value for name, value in told.items() if value}

    def gathered(self) -> dict[str, Any]:
        """What a checkpoint holds of it; every process must ask."""
        own = {"random": random_state(), "meters": self.meters}
        return {
            # As in the original: the last epoch that is complete.
            "epoch": self.epoch - 1,
            "step": self.step,
            "rng": all_gather(own),
            "progress": {
                "images_done": self.images_done,
                "train_stats": self.train_stats,
                "scores": self.scores,
                "skipped_steps": self.skipped_steps,
                "bad_images": self.bad_images,
            },
        }

    @classmethod
    def restored(cls, checkpoint: dict[str, Any]) -> "RunState":
        """The state that a checkpoint holds; of one of the original, the beginning of an epoch.

        The random generators of this process are put back too.

        Raises:
            UserError: what the checkpoint holds of it makes no sense.
        """
        try:
            state = cls(
                epoch=checkpoint["epoch"] + 1,
                step=checkpoint.get("step", 0),
                **checkpoint.get("progress", {}),
            )
            processes = checkpoint.get("rng", [])
            if get_rank() < len(processes):
                state.meters = processes[get_rank()]["meters"]
                set_random_state(processes[get_rank()]["random"])
        except (TypeError, KeyError, ValueError, IndexError, RuntimeError) as err:
            raise UserError(
                f"the checkpoint's state of the run cannot be used ({err}); start from its weights "
                "with --finetune"
            ) from err
        return state


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
