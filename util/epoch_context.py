"""Start position and callbacks of an epoch, for `engine.train_one_epoch`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from util.metric_logger import MetricLogger


@dataclass
class EpochContext:
    """Position in an interrupted epoch, and callbacks of each step.

    Attributes:
        steps_done: steps already trained before an interruption.
        meters: statistics of these steps, from `util.metric_logger.MetricLogger.state_dict`.
        wants_to_stop: called in each step; if True on any rank, `StepWatch.stop_agreed` is set on
            all ranks one step later.
        after_step: called with the number of completed steps and the meters.
        lr_factor: called in each step; returns the factor of its learning rates (warm-up).
    """

    steps_done: int = 0
    meters: dict[str, Any] = field(default_factory=dict)
    wants_to_stop: Callable[[], bool] = lambda: False
    after_step: Callable[[int, MetricLogger], None] = lambda steps_done, logger: None
    lr_factor: Callable[[], float] = lambda: 1.0
