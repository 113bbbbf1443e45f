"""Figures over epochs: losses, AP, learning rate."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from report.plotting import COLORS, Figure

Log = Sequence[Mapping[str, Any]]
Points = tuple[list[int], list[float]]

_LOSS_PARTS = {
    "loss_ce": "classes",
    "loss_bbox": "box L1",
    "loss_giou": "box GIoU",
    "loss_mask": "mask focal",
    "loss_dice": "mask dice",
}
_AP = {0: "AP", 1: "AP50", 2: "AP75"}
_AP_BY_SIZE = {3: "small", 4: "medium", 5: "large"}


def epoch_figures(log: Log) -> list[Figure]:
    """Figures for all fields that the log contains."""
    caption = "Weighted sum over all decoder layers, mean of the epoch."
    if points_of(log, "train_loss_ce_dn")[0]:
        caption += " Only training includes the losses of the denoising queries."
    figures = [
        Figure(
            "loss",
            "Loss",
            partial(_draw_losses, log=log, parts={"loss": "all"}),
            caption=caption,
        ),
        Figure(
            "loss_parts",
            "Loss of the last decoder layer",
            partial(_draw_losses, log=log, parts=_LOSS_PARTS),
            caption="Weighted parts. Solid: training; dashed: validation.",
        ),
    ]
    figures += _ap_figures(log, "bbox", "boxes") + _ap_figures(log, "masks", "masks")
    if points_of(log, "test_PQ_all", "pq")[0]:
        figures.append(Figure("pq", "Panoptic quality", partial(_draw_pq, log=log)))
    for name, title, label in (
        ("train_lr", "Learning rate", "learning rate"),
        ("test_class_error", "Class error of matched queries", "percent"),
    ):
        if points_of(log, name)[0]:
            draw = partial(_draw_curves, curves={label: points_of(log, name)}, label=label)
            figures.append(Figure(name.partition("_")[2], title, draw))
    return figures if log else []


def points_of(log: Log, name: str, key: int | str | None = None) -> Points:
    """Epochs and values of a field; epochs without it are skipped.

    Args:
        log: log entries in the order of epochs.
        key: key or index of the value, if the field contains several.
    """
    epochs, values = [], []
    for index, entry in enumerate(log):
        value = entry.get(name)
        if key is not None:
            try:
                value = value[key]  # type: ignore[index]
            except (KeyError, IndexError, TypeError):
                continue
        if isinstance(value, int | float):
            epochs.append(int(entry.get("epoch", index)))
            values.append(float(value))
    return epochs, values


def _ap_figures(log: Log, kind: str, noun: str) -> list[Figure]:
    name = f"test_coco_eval_{kind}"
    if not points_of(log, name, 0)[0]:
        return []
    curves = {label: points_of(log, name, index) for index, label in _AP.items()}
    averaged = points_of(log, f"ema_coco_eval_{kind}", 0)
    if averaged[0]:
        curves["AP, EMA weights"] = averaged
    sizes = {label: points_of(log, name, index) for index, label in _AP_BY_SIZE.items()}
    known = {k: v for k, v in sizes.items() if any(value >= 0 for value in v[1])}  # -1: no objects
    caption = "COCO's limits are areas of 32² and 96² pixels."
    draw = partial(_draw_curves, curves=curves, label="AP", limit=1)
    figures = [Figure(f"ap_{kind}", f"AP of {noun}", draw)]
    if known:
        draw = partial(_draw_curves, curves=known, label="AP", limit=1)
        figures.append(Figure(f"ap_by_size_{kind}", f"AP of {noun} by size", draw, caption=caption))
    return figures


def _draw_losses(ax: Axes, log: Log, parts: Mapping[str, str]) -> None:
    known = {name: label for name, label in parts.items() if points_of(log, f"train_{name}")[0]}
    for color, (name, label) in zip(COLORS, known.items(), strict=False):
        for split, line, word in (("train", "-", "training"), ("test", "--", "validation")):
            epochs, values = points_of(log, f"{split}_{name}")
            text = word if len(known) == 1 else label if split == "train" else None
            own = COLORS[1] if len(known) == 1 and split == "test" else color
            ax.plot(epochs, values, line, color=own, label=text, marker=_marker(epochs))
    _finish(ax, "loss")


def _draw_pq(ax: Axes, log: Log) -> None:
    fields = {"all": "test_PQ_all", "things": "test_PQ_th", "stuff": "test_PQ_st"}
    curves = {label: points_of(log, name, "pq") for label, name in fields.items()}
    _draw_curves(ax, curves, "PQ", limit=1)


def _draw_curves(
    ax: Axes, curves: Mapping[str, Points], label: str, limit: float = math.inf
) -> None:
    """Draw curves by name, with a y axis from 0 to at most ``limit``; skip negative values."""
    highest = 0.0
    for name, (epochs, values) in curves.items():
        known = [(e, v) for e, v in zip(epochs, values, strict=True) if v >= 0]
        highest = max([highest, *(v for _, v in known)])
        ax.plot([e for e, _ in known], [v for _, v in known], label=name, marker=_marker(epochs))
    ax.set_ylim(0, min(1.15 * highest or 1, limit))
    _finish(ax, label)


def _finish(ax: Axes, label: str) -> None:
    ax.set_xlabel("epoch")
    ax.set_ylabel(label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    first, last = ax.dataLim.intervalx
    if first == last:  # a single epoch: space for whole numbers beside it
        ax.set_xlim(first - 1, last + 1)
    if len(ax.get_lines()) > 1:
        ax.legend()


def _marker(epochs: Sequence[int]) -> str:
    """Marker for curves with few points, so that a single point is visible."""
    return "o" if len(epochs) <= 20 else ""
