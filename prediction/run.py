"""Predict a stream of images, and pass each prediction to the outputs."""

import contextlib
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from prediction.detector import Detector
from prediction.inputs.reading import Item
from prediction.names import printable
from prediction.result import Prediction
from util.cli.signals import StopRequested, StopSignals
from util.errors import UserError
from util.text import count


class Output(Protocol):
    """Writes the predictions in one format."""

    def add(self, item: Item, image: Image.Image, prediction: Prediction) -> None:
        """Write the prediction for an image."""

    def close(self) -> None:
        """Complete the files; also called after an error or signal."""


@dataclass
class Tally:
    """Counts of predicted images, detections and failures.

    Attributes:
        num_images: number of predicted images.
        objects: number of detections by class name.
        failures: name and error message of each input that was not predicted.
    """

    num_images: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def fail(self, file: str, error: UserError) -> None:
        """Record and print an input that cannot be predicted."""
        reason = printable(error.one_line())
        self.failures.append((printable(file), reason))
        print(f"skipped: {reason}", file=sys.stderr)

    def add(self, item: Item, prediction: Prediction) -> None:
        """Record and print a predicted image."""
        self.num_images += 1
        self.objects.update(prediction.names)
        segments = ", ".join(segment["name"] for segment in prediction.segments)
        of_segments = f"; segments: {segments}" if segments else ""
        print(f"{printable(item.title)}: {objects_text(Counter(prediction.names))}{of_segments}")

    def summary(self) -> str:
        """All counts in one line."""
        failed = f"; {count(len(self.failures), 'input')} skipped" if self.failures else ""
        images = count(self.num_images, "image")
        return f"{images}, {count(self.objects.total(), 'detection')}{failed}"


def objects_text(objects: Counter[str]) -> str:
    """Numbers of objects by class, most frequent first.

    >>> objects_text(Counter(dog=2, cat=1))
    '2 dog, 1 cat'
    """
    return ", ".join(f"{n} {name}" for name, n in objects.most_common()) or "nothing"


def predict_all(
    detector: Detector,
    images: Iterable[tuple[Item, Image.Image]],
    outputs: Sequence[Output],
    tally: Tally,
    threshold: float | None = None,
    batch_size: int = 1,
    classes: Sequence[str] | None = None,
) -> None:
    """Predict a stream of images, and pass each prediction to the outputs as soon as it is made.

    Output files are complete even after an error or a signal.

    Args:
        images: items with their upright RGB images.
        outputs: receive each prediction, and are closed at the end.
        tally: updated in place.
        threshold, batch_size, classes: see `Detector.predict`.

    Raises:
        UserError: if no image could be predicted.
        StopRequested: after a signal such as Ctrl-C; the outputs contain the images up to it.
    """

    def on_error(item: Item, error: UserError) -> None:
        """Count a file that failed, and print the error."""
        tally.fail(item.file, UserError(f"{item.title}: {error}"))

    with StopSignals() as signals, contextlib.ExitStack() as stack:
        for output in outputs:
            stack.callback(output.close)
        stream = detector.stream(images, threshold, batch_size, classes, on_error)
        for item, image, prediction in stream:
            for output in outputs:
                output.add(item, image, prediction)
            tally.add(item, prediction)
            if signals.received is not None:
                break
    if signals.received is not None:
        name = signal.Signals(signals.received).name
        raise StopRequested(signals.received, f"stopped by {name} after {tally.summary()}")
    if not tally.num_images:
        raise UserError("no image could be processed, see above")
