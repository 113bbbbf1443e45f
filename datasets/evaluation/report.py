"""What an evaluation is turned into: a table for people, and the contents of files."""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from datasets.evaluation.coco_scoring import Annotation, CocoScore, SummaryRow
from datasets.evaluation.explain import some_of
from util.files.checkpoint import StrPath, atomic_write

_CLASS_COLUMNS = {
    "AP": SummaryRow("AP", None, "all", -1),
    "AP50": SummaryRow("AP", 0.5, "all", -1),
    "AP75": SummaryRow("AP", 0.75, "all", -1),
    "AR": SummaryRow("AR", None, "all", -1),
}


def per_class_table(score: CocoScore, categories: Mapping[int, str]) -> str:
    """A line for each class that occurs in the images: its objects, AP, AP50, AP75 and AR.

    Args:
        score: an evaluation after ``accumulate()``.
        categories: names by category id; where one is missing the id is shown.

    Returns:
        A table in plain text. AR is that with the largest number of detections an image. Below it
        the classes without any object.
    """
    class_ids: list[int] = score.params.catIds
    present = [i for i in class_ids if score.objects_per_category[i]]
    absent = [i for i in class_ids if i not in present]
    width = max(len(name) for name in ["class", *(_name(i, categories) for i in present)])
    lines = [f"{'class':<{width}}  objects  " + "  ".join(f"{c:>5}" for c in _CLASS_COLUMNS)]
    for i in present:
        means = [score.class_mean(row, class_ids.index(i)) for row in _CLASS_COLUMNS.values()]
        numbers = "  ".join(f"{mean:5.3f}" for mean in means)
        lines.append(
            f"{_name(i, categories):<{width}}  {score.objects_per_category[i]:>7}  {numbers}"
        )
    if absent:
        lines.append(f"without objects: {some_of([_name(i, categories) for i in absent])}")
    return "\n".join(lines)


def serialisable_eval(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The content of an ``eval*.pth`` file.

    Args:
        evaluation: ``CocoScore.eval`` after ``accumulate()``.

    Returns:
        The same keys, readable by ``torch.load(..., weights_only=True)`` once argparse.Namespace is
        allowed: arrays are float64 tensors, and ``params`` is a Namespace of ``CocoScore.params``.
    """
    return {
        name: Namespace(**{key: _plain(item) for key, item in vars(value).items()})
        if name == "params"
        else _plain(value)
        for name, value in evaluation.items()
    }


def write_detections(detections: Sequence[Annotation], path: StrPath) -> None:
    """Writes COCO result entries as JSON, an entry a line, and replaces the file once complete.

    Numbers are written so that reading gives the same float again; equal detections give equal
    bytes.

    Args:
        detections: `datasets.coco_eval.CocoEvaluator.detections`.
        path: the file; its folder must exist.
    """
    with atomic_write(path, "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(entry) for entry in detections) + "\n]\n")


def _name(category_id: int, categories: Mapping[int, str]) -> str:
    return str(categories.get(category_id, category_id))


def _plain(value: Any) -> Any:
    """Arrays as tensors, numpy's numbers as Python's, also within lists."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
