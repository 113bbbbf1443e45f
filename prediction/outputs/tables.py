"""CSV tables: one row per detection, and number of objects per image and class."""

import contextlib
import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from prediction.inputs.reading import Item
from prediction.names import printable
from prediction.result import Prediction
from util.files.checkpoint_file import atomic_write

_COLUMNS = (
    *("file", "frame", "seconds", "category_id", "name", "score"),
    *("left", "top", "right", "bottom"),
)


class DetectionTable:
    """Writes ``detections.csv``: one row per detection, with its box in pixels."""

    def __init__(self, folder: Path) -> None:
        self._stack = contextlib.ExitStack()
        file = self._stack.enter_context(atomic_write(folder / "detections.csv", "w"))
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(_COLUMNS)

    def add(self, item: Item, image: Image.Image, prediction: Prediction) -> None:
        """Write the detections in an image, one row each."""
        seconds = "" if item.seconds is None else round(item.seconds, 3)
        place = [*_place(item), seconds]
        for index, name in enumerate(prediction.names):
            score = round(float(prediction.scores[index]), 4)
            box = [round(float(value), 2) for value in prediction.boxes_xyxy[index]]
            category_id = prediction.category_ids.tolist()[index]
            self._writer.writerow([*place, category_id, name, score, *box])

    def close(self) -> None:
        """Complete the file."""
        self._stack.close()


class CountTable:
    """Writes ``counts.csv``: one row per image, one column per class, with the number of objects.

    Args:
        classes: columns; None: the classes that occur, sorted by name.
    """

    def __init__(self, folder: Path, classes: Sequence[str] | None) -> None:
        self._path = folder / "counts.csv"
        self._classes = classes
        self._rows: list[tuple[list[Any], Counter[str]]] = []

    def add(self, item: Item, image: Image.Image, prediction: Prediction) -> None:
        """Count the objects in an image."""
        self._rows.append((_place(item), Counter(prediction.names)))

    def close(self) -> None:
        """Write the file, since its columns are known only now."""
        occurring = sorted({name for _, counts in self._rows for name in counts})
        classes = list(self._classes or occurring)
        with atomic_write(self._path, "w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["file", "frame", *classes, "all"])
            for place, counts in self._rows:
                writer.writerow([*place, *(counts[name] for name in classes), counts.total()])


def _place(item: Item) -> list[Any]:
    """Cells for the file name and the video frame."""
    return [printable(item.file), "" if item.frame is None else item.frame]
