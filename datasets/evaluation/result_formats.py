"""Output of an evaluation: per-class table, ``eval*.pth`` and COCO results JSON."""

import json
from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from datasets.evaluation.coco_scoring import Annotation, CocoScore, SummaryRow
from datasets.evaluation.explain import MAX_LISTED
from util.files.checkpoint_file import StrPath, atomic_write
from util.text import first_of

_LOWEST_SCORE = 0.01
_CLASS_COLUMNS = {
    "AP": SummaryRow("AP", None, "all", -1),
    "AP50": SummaryRow("AP", 0.5, "all", -1),
    "AP75": SummaryRow("AP", 0.75, "all", -1),
    "AR": SummaryRow("AR", None, "all", -1),
}


_LOG_NAMES = {"bbox": "coco_eval_bbox", "segm": "coco_eval_masks"}


def coco_statistics(scores: Mapping[str, CocoScore]) -> dict[str, list[float]]:
    """The 12 COCO metrics of boxes and masks, by their names in ``log.txt``.

    Args:
        scores: evaluations by IoU type, after ``summarize()``.
    """
    return {_LOG_NAMES[kind]: score.stats.tolist() for kind, score in scores.items()}


def per_class_table(score: CocoScore, categories: Mapping[int, str]) -> str:
    """Format the number of objects, AP, AP50, AP75 and AR of each class that has objects.

    Args:
        score: evaluation after ``accumulate()``.
        categories: class names by category id; ids without a name are printed as numbers.

    Returns:
        a text table, followed by the classes without objects. AR is for the largest number of
        detections per image.
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
        names = [_name(i, categories) for i in absent]
        lines.append(f"without objects: {first_of(names, MAX_LISTED)}")
    return "\n".join(lines)


def serializable_eval(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a result to the content of an ``eval*.pth`` file.

    Args:
        evaluation: ``CocoScore.eval`` after ``accumulate()``.

    Returns:
        a dict with the same keys. Arrays become float64 tensors, and ``params`` becomes an
        argparse.Namespace, so that ``torch.load(..., weights_only=True)`` loads it if
        argparse.Namespace is allowed.
    """
    return {
        name: Namespace(**{key: _plain(item) for key, item in vars(value).items()})
        if name == "params"
        else _plain(value)
        for name, value in evaluation.items()
    }


def write_detections(
    detections: Iterable[Annotation], path: StrPath, text_ids: Mapping[int, str] | None = None
) -> None:
    """Write COCO result entries as JSON, one entry per line, atomically and without rounding.

    Args:
        detections: from `datasets.coco_eval.CocoEvaluator.detections`.
        path: file to write; its folder must exist.
        text_ids: id in the user's files by category id, if it is a string.
    """
    lines = (json.dumps(with_own_id(entry, text_ids or {})) for entry in detections)
    with atomic_write(path, "w") as file:
        file.write("[\n" + ",\n".join(lines) + "\n]\n")


def with_own_id(entry: Annotation, text_ids: Mapping[int, str]) -> Annotation:
    """Return a result entry with the ``category_id`` of the user's files.

    Args:
        entry: dict with a ``category_id``.
        text_ids: id in the user's files by category id, if it is a string.
    """
    own_id = text_ids.get(entry.get("category_id", -1))
    return entry if own_id is None else {**entry, "category_id": own_id}


def best_boxes(detections: Iterable[Annotation]) -> list[Annotation]:
    """Detections without masks and without the lowest scores, for a file of moderate size.

    Args:
        detections: COCO result entries with ``bbox``.

    Returns:
        detections with a score of at least 0.01; boxes are rounded to hundredths of a pixel.
    """
    return [
        {
            "image_id": entry["image_id"],
            "category_id": entry["category_id"],
            "bbox": [round(value, 2) for value in entry["bbox"]],
            "score": entry["score"],
        }
        for entry in detections
        if entry["score"] >= _LOWEST_SCORE
    ]


def _name(category_id: int, categories: Mapping[int, str]) -> str:
    return str(categories.get(category_id, category_id))


def _plain(value: Any) -> Any:
    """Convert arrays to tensors and numpy scalars to Python numbers, also within lists."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
