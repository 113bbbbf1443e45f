"""A metric logger that shows a progress bar instead of log lines."""

import math
from collections.abc import Callable

from util.meters import Number, SmoothedValue, fetch_pending
from util.metric_logger import LoopClock, MetricLogger
from util.terminal.bar import MAX_WIDTH, ProgressBar
from util.terminal.step_line import StepValues, short_duration, step_line

# Meters with parts of the loss (of the last decoder layer), and their names in the line.
_PARTS = {
    "loss_ce": "class",
    "loss_bbox": "box",
    "loss_giou": "GIoU",
    "loss_mask": "mask",
    "loss_dice": "dice",
}


class BarLogger(MetricLogger):
    """Shows a loop as a progress bar, and the averages of the loop as one line at its end.

    Args:
        recent: show means over the last 20 steps in the bar; otherwise over all steps so far.
        run_seconds_left: estimates the seconds to the end of the run, from the seconds to the end
            of the loop and the seconds of the whole loop; None: the bar has the time of the loop
            only.
    """

    def __init__(
        self,
        title: str,
        recent: bool = False,
        run_seconds_left: Callable[[float, float], float] | None = None,
    ) -> None:
        super().__init__(delimiter="  ")
        self._title = title
        self._recent = recent
        self._run_seconds_left = run_seconds_left
        self._recent_class_error = SmoothedValue()  # the meter of the engine keeps one value only
        self._bar: ProgressBar | None = None
        self._took = ""

    def update(self, **kwargs: Number) -> None:
        """Record one value per name; see `util.meters.SmoothedValue.update`."""
        super().update(**kwargs)
        if "class_error" in kwargs:
            self._recent_class_error.update(kwargs["class_error"])

    def start_loop(self, clock: LoopClock, print_freq: int) -> None:
        """Open the bar."""
        self._bar = ProgressBar(self._title, clock.length, print_freq)

    def end_step(self, header: str, index: int, print_freq: int, clock: LoopClock) -> None:
        """Update the bar."""
        assert self._bar is not None
        self._bar.show(index + 1, lambda: self._values(index, clock))

    def end_loop(self, header: str, clock: LoopClock) -> None:
        """Remove the bar."""
        self._took = f"in {short_duration(clock.seconds)}"
        self.close()

    def close(self) -> None:
        """Remove the bar if the loop ended early."""
        if self._bar is not None:
            self._bar.close()

    def print_averages(self) -> None:
        """Print the averages over all ranks in one line."""
        averages = self._values()
        width = MAX_WIDTH - len(self._title) - len(self._took) - 2
        print(self._title, step_line(averages, width), self._took, flush=True)

    def _values(self, index: int | None = None, clock: LoopClock | None = None) -> StepValues:
        """Values to show: of the step ``index``, or of the whole loop if it is None."""
        fetch_pending([*self.meters.values(), self._recent_class_error])
        recent = self._recent and index is not None
        class_error = self.meters.get("class_error", self._recent_class_error).global_avg
        return StepValues(
            loss=self._mean("loss", recent),
            parts={
                short: self._mean(name, recent)
                for name, short in _PARTS.items()
                if name in self.meters
            },
            class_error=self._recent_class_error.avg if recent else class_error,
            lr=self.meters["lr"].value if "lr" in self.meters else None,
            images_per_second=math.nan if clock is None else clock.images_per_second,
            seconds_left=() if clock is None or index is None else self._seconds_left(index, clock),
        )

    def _mean(self, name: str, recent: bool) -> float:
        if name not in self.meters:
            return math.nan
        return self.meters[name].avg if recent else self.meters[name].global_avg

    def _seconds_left(self, index: int, clock: LoopClock) -> tuple[float | None, ...]:
        seconds_left = clock.seconds_left(index)
        if self._run_seconds_left is None:
            return (seconds_left,)
        if seconds_left is None or clock.length is None:
            return (None, None)
        seconds_of_loop = clock.seconds_per_step * clock.length
        return seconds_left, self._run_seconds_left(seconds_left, seconds_of_loop)
