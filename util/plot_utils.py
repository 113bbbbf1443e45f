"""Plot training logs and saved evaluations. Requires matplotlib, but no display."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from util.errors import UserError
from util.files.checkpoint_file import load_checkpoint

_AP50_IN_COCO_STATS = 1
_LINE_STYLES = {"train": "-", "test": "--"}

Paths = str | Path | Sequence[str | Path]
# "train" or "test", epochs, values
Curve = tuple[str, list[int], np.ndarray]


def plot_logs(
    logs: Paths,
    fields: Sequence[str] = ("class_error", "loss_bbox_unscaled", "mAP"),
    ewm_col: float = 0,
    log_name: str = "log.txt",
) -> tuple[Any, Any]:
    """Plot fields of one or more training logs over epochs, side by side.

    Args:
        logs: one or more output folders of training runs.
        fields: names without the prefix: "loss" draws ``train_loss`` solid and ``test_loss``
            dashed. "mAP" is the box AP at IoU 0.50 of the evaluation (``test_coco_eval_bbox``).
        ewm_col: smoothing: center of mass, in epochs, of an exponentially weighted mean; 0: no
            smoothing.
        log_name: name of the log in each folder, with one JSON object per line.

    Returns:
        the matplotlib figure and its axes, one per field.

    Raises:
        UserError: if matplotlib or a log is missing, a log is broken, or no log has a given field.
    """
    folders = _as_paths(logs)
    runs = {folder: read_log(folder / log_name) for folder in folders}
    curves = {field: _curves_of(field, runs, ewm_col) for field in fields}
    plt = _import_pyplot()
    fig, axs = plt.subplots(ncols=len(fields), figsize=(16, 5), squeeze=False)
    colors = _colors(plt, len(folders))
    for ax, field in zip(axs[0], fields, strict=True):
        for run_index, (split, epochs, values) in curves[field]:
            label = f"{folders[run_index].name} {split}"
            ax.plot(
                epochs,
                values,
                _LINE_STYLES[split],
                color=colors[run_index],
                label=label,
                marker=".",
            )
        ax.set_title("mAP (IoU 0.50)" if field == "mAP" else field)
        ax.set_xlabel("epoch")
        ax.legend()
    fig.tight_layout()
    return fig, axs[0]


def plot_precision_recall(files: Paths, naming_scheme: str = "iter") -> tuple[Any, Any]:
    """Plot precision and score over recall for saved evaluations, and print their means.

    The curves are for IoU 0.50, objects of all sizes and the largest number of detections per
    image, averaged over the classes that have objects.

    Args:
        files: one or more ``eval*.pth`` files.
        naming_scheme: "iter" names a curve after its file (``latest``, ``050``), "exp_id" after the
            output folder of the run.

    Returns:
        the matplotlib figure and its two axes.

    Raises:
        UserError: if matplotlib or a file is missing, or a file cannot be read.
        ValueError: if the naming scheme is unknown.
    """
    paths = _as_paths(files)
    names = [_evaluation_name(path, naming_scheme) for path in paths]
    evaluations = [load_eval(path) for path in paths]
    plt = _import_pyplot()
    fig, axs = plt.subplots(ncols=2, figsize=(16, 5))
    colors = _colors(plt, len(paths))
    for name, evaluation, color in zip(names, evaluations, colors, strict=True):
        recall, precision, scores = _curves_at_iou_50(evaluation)
        print(_describe_evaluation(name, evaluation))
        axs[0].plot(recall, precision, color=color, label=name)
        axs[1].plot(recall, scores, color=color, label=name)
    for ax, quantity in zip(axs, ("Precision", "Score"), strict=True):
        ax.set(title=f"{quantity} / Recall, IoU 0.50", xlabel="recall", ylabel=quantity.lower())
        ax.legend()
    fig.tight_layout()
    return fig, axs


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Read a ``log.txt``: one dict per epoch.

    Args:
        path: file with one JSON object per line. An incomplete last line (of a killed or running
            training) is ignored.

    Raises:
        UserError: if the file is missing, any other line is not a JSON object, or there is no
            epoch.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; use the --output_dir of a training run"
        ) from error
    epochs = []
    for number, line in enumerate(lines, start=1):
        try:
            epochs.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise UserError(f"{path}, line {number} is not JSON: {error}; remove it") from error
    if not epochs:
        raise UserError(f"{path} has no finished epoch: plot it after the first epoch")
    return epochs


def load_eval(path: str | Path) -> dict[str, Any]:
    """Read an ``eval*.pth`` file without running code from it.

    Args:
        path: file written by ``main.py``: arrays as tensors, ``params`` as an argparse.Namespace.

    Raises:
        UserError: if the file is missing or is not a saved evaluation.
    """
    try:
        evaluation = load_checkpoint(path)
    except UserError as error:
        if not Path(path).exists():
            raise
        raise UserError(
            f"{error} (evaluations saved by the original codebase contain pycocotools objects: "
            "create the file again with main.py --eval)"
        ) from error
    if not {"params", "precision", "recall", "scores"} <= evaluation.keys():
        raise UserError(f"{path} is not a saved evaluation: see eval/ in an --output_dir")
    return evaluation


def _as_paths(paths: Paths) -> list[Path]:
    if isinstance(paths, (str, Path)):
        return [Path(paths)]
    return [Path(path) for path in paths]


def _import_pyplot() -> Any:
    try:
        import matplotlib.pyplot
    except ImportError as error:
        raise UserError(
            f"drawing needs the package matplotlib ({error}): pip install matplotlib"
        ) from error
    return matplotlib.pyplot


def _colors(plt: Any, count: int) -> list[Any]:
    """Distinct colors, also for many curves."""
    return [plt.get_cmap("viridis")(x) for x in np.linspace(0, 0.9, count)]


def _curves_of(
    field: str, runs: dict[Path, list[dict[str, Any]]], ewm_col: float
) -> list[tuple[int, Curve]]:
    """Curves of ``field``, each with the index of its run."""
    curves = [
        (index, (split, epochs, smooth(values, ewm_col)))
        for index, log in enumerate(runs.values())
        for split in _LINE_STYLES
        for epochs, values in [_points(log, split, field)]
        if epochs
    ]
    if not curves:
        keys = {key for log in runs.values() for epoch in log for key in epoch}
        known = sorted({key.partition("_")[2] for key in keys} - {""})
        raise UserError(f"no log has the field {field!r}; there are: {', '.join(known)}")
    return curves


def _points(log: list[dict[str, Any]], split: str, field: str) -> tuple[list[int], list[float]]:
    """Epochs and values of a field, without epochs that lack it (such as epochs not evaluated)."""
    points = []
    for index, epoch in enumerate(log):
        value = epoch.get(f"{split}_coco_eval_bbox" if field == "mAP" else f"{split}_{field}")
        if field == "mAP" and value is not None:
            value = value[_AP50_IN_COCO_STATS]
        if isinstance(value, (int, float)):
            points.append((epoch.get("epoch", index), value))
    return [epoch for epoch, _ in points], [value for _, value in points]


def smooth(values: Iterable[float], center_of_mass: float) -> np.ndarray:
    """Exponentially weighted mean; a value n steps earlier has weight (c / (1 + c)) ** n.

    Args:
        values: values to smooth; NaN does not change the mean.
        center_of_mass: c, the weighted mean of n; 0: no smoothing.

    Returns:
        one mean per value.
    """
    decay = center_of_mass / (1 + center_of_mass)
    weighted_sum = total_weight = 0.0
    means = []
    for value in values:
        weighted_sum, total_weight = weighted_sum * decay, total_weight * decay
        if not math.isnan(value):
            weighted_sum, total_weight = weighted_sum + value, total_weight + 1
        means.append(weighted_sum / total_weight if total_weight else math.nan)
    return np.array(means)


def _evaluation_name(path: Path, naming_scheme: str) -> str:
    if naming_scheme == "exp_id":
        # <output_dir>/eval/latest.pth or <output_dir>/eval.pth
        folder = path.resolve().parent
        return folder.parent.name if folder.name == "eval" else folder.name
    if naming_scheme == "iter":
        return path.stem
    raise ValueError(f"naming_scheme is {naming_scheme!r}, expected 'iter' or 'exp_id'")


def _curves_at_iou_50(
    evaluation: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recall thresholds [R], with precision [R] and score [R] at these thresholds."""
    recall = np.asarray(evaluation["params"].recThrs)
    return (
        recall,
        _mean_over_classes(evaluation["precision"]),
        _mean_over_classes(evaluation["scores"]),
    )


def _mean_over_classes(values: Any) -> np.ndarray:
    """Mean over classes [R] at the first IoU threshold, all areas and the most detections.

    Args:
        values: array [T, R, K, A, M] of pycocotools.
    """
    by_class = np.asarray(values)[0, :, :, 0, -1]
    has_objects = (by_class > -1).all(axis=0)
    if not has_objects.any():
        return np.full(len(by_class), math.nan)
    return by_class[:, has_objects].mean(axis=1)


def _describe_evaluation(name: str, evaluation: dict[str, Any]) -> str:
    _, precision, scores = _curves_at_iou_50(evaluation)
    recall = np.asarray(evaluation["recall"])[0, :, 0, -1]
    found = recall[recall > -1]
    mean_recall = found.mean() if found.size else math.nan
    f1 = 2 * precision.mean() * mean_recall / max(precision.mean() + mean_recall, 1e-12)
    return f"{name}: mAP@50={100 * precision.mean():5.1f}, score={scores.mean():0.3f}, f1={f1:0.3f}"
