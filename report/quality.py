"""Figures of an evaluation: precision and recall, AP by class and size, confusion, calibration."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from datasets.evaluation.error_kinds import ErrorKind
from report.analysis import Analysis, ClassAP, SavedEvaluation, calibration
from report.plotting import COLORS, INK, ClassAxis, Figure, both_ends

Names = Mapping[Any, str]
_MAX_CLASSES = 100  # shown in a figure
_MAX_LABELED_CURVES = 6
_MAX_CELLS_WITH_COUNTS = 16
_MAX_NAME_LENGTH = 22


def short_name(names: Names, category_id: Any) -> str:
    """Class name, shortened to fit next to an axis; the id if it has no name."""
    name = " ".join(str(names.get(category_id, category_id)).split())
    if len(name) <= _MAX_NAME_LENGTH:
        return name
    end = _MAX_NAME_LENGTH // 3  # long names often differ at the end: "… small", "… large"
    return f"{name[: _MAX_NAME_LENGTH - end - 1]}…{name[-end:]}"


# ---- from eval*.pth


def evaluation_figures(evaluation: SavedEvaluation, names: Names) -> list[Figure]:
    """Precision over recall, AP by class and AP by size."""
    by_class = evaluation.by_class()
    if not by_class:
        return []
    draw = partial(_draw_precision_recall, evaluation=evaluation)
    figures = [
        Figure("precision_recall", "Precision and recall", draw, caption="Mean over classes."),
        _class_curves(evaluation, by_class, names),
        Figure(
            "ap_size_bars",
            "AP by object size",
            partial(_draw_bars, values=evaluation.by_size()),
            caption="COCO's size limits are areas of 32² and 96² pixels.",
        ),
        _ap_by_class(by_class, names),
    ]
    return figures


def _class_curves(
    evaluation: SavedEvaluation, by_class: Mapping[Any, ClassAP], names: Names
) -> Figure:
    draw = partial(_draw_class_curves, evaluation=evaluation, by_class=by_class, names=names)
    few = len(by_class) <= _MAX_LABELED_CURVES
    caption = "At IoU 0.5." if few else "At IoU 0.5; labeled: the best and the worst classes."
    return Figure(
        "precision_recall_by_class", "Precision and recall by class", draw, caption=caption
    )


def _ap_by_class(by_class: Mapping[Any, ClassAP], names: Names) -> Figure:
    order = sorted(by_class, key=lambda i: -by_class[i].ap)
    caption = "Bars: mean over IoU 0.50 to 0.95. Dots: IoU 0.50."
    if len(order) > _MAX_CLASSES:
        caption += f" The best and the worst {_MAX_CLASSES // 2} classes."
    order = both_ends(order, _MAX_CLASSES)
    axis = ClassAxis([short_name(names, i) for i in order])
    draw = partial(_draw_ap_by_class, axis=axis, values=[by_class[i] for i in order])
    return Figure("ap_by_class", "AP by class", draw, axis.size_inches, caption, axis.is_wide)


def _draw_precision_recall(ax: Axes, evaluation: SavedEvaluation) -> None:
    for iou in (0.5, 0.75, 0.9):
        ax.plot(evaluation.recall, evaluation.curve(iou), label=f"IoU {iou:.2f}")
    _finish_precision_recall(ax)


def _draw_class_curves(
    ax: Axes, evaluation: SavedEvaluation, by_class: Mapping[Any, ClassAP], names: Names
) -> None:
    order = sorted(by_class, key=lambda i: -by_class[i].ap50)
    named = both_ends(order, _MAX_LABELED_CURVES)
    for category_id in order:
        if category_id not in named:
            curve = evaluation.curve(0.5, category_id)
            ax.plot(evaluation.recall, curve, color="#8a8f98", linewidth=0.5, alpha=0.5)
    for category_id in named:
        curve = evaluation.curve(0.5, category_id)
        ax.plot(evaluation.recall, curve, label=short_name(names, category_id))
    _finish_precision_recall(ax)


def _finish_precision_recall(ax: Axes) -> None:
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.03))
    ax.legend()


def _draw_bars(ax: Axes, values: Mapping[str, float]) -> None:
    bars = ax.bar(list(values), list(values.values()), color=COLORS[0], width=0.6)
    ax.bar_label(bars, [f"{value:.3f}" for value in values.values()], padding=2, fontsize=8)
    ax.set(ylabel="AP", ylim=(0, min(1.08, 1.2 * max([*values.values(), 0.01]))))
    ax.grid(axis="x", visible=False)


def _draw_ap_by_class(ax: Axes, axis: ClassAxis, values: list[ClassAP]) -> None:
    axis.bars(ax, [value.ap for value in values], COLORS[0])
    axis.dots(ax, [value.ap50 for value in values])
    axis.finish(ax, "AP", (0, 1))


# ---- from detections


def detection_figures(analysis: Analysis, names: Names) -> list[Figure]:
    """F1 over thresholds, calibration, kinds of errors and the confusion matrix."""
    figures = [_calibration(analysis), _kinds(analysis), _confusion(analysis, names)]
    if analysis.best is not None:
        title = "Threshold: precision, recall and F1"
        caption = f"All classes together. The best F1 is at a score of {analysis.threshold:.2f}."
        draw = partial(_draw_threshold, analysis=analysis)
        figures.insert(0, Figure("threshold", title, draw, caption=caption))
    return figures


def _calibration(analysis: Analysis) -> Figure:
    caption = (
        "Fraction of correct detections in ten score intervals. On the dotted line, the score is "
        "the probability of being correct; below it, the model is overconfident. The size of a "
        "dot is the number of "
        f"detections. Expected calibration error: {calibration(analysis.matches).error:.3f}."
    )
    draw = partial(_draw_calibration, analysis=analysis)
    return Figure("calibration", "Calibration of scores", draw, caption=caption)


def _kinds(analysis: Analysis) -> Figure:
    caption = f"Detections with a score of {analysis.threshold:.2f} or more, at IoU 0.5."
    draw = partial(_draw_kinds, analysis=analysis)
    return Figure("errors", "Errors by kind", draw, caption=caption)


def _confusion(analysis: Analysis, names: Names) -> Figure:
    ids = analysis.confusion.category_ids
    counts = analysis.confusion.counts
    caption = (
        "Rows: class of the object; columns: class of the detection; brightness: fraction of the "
        "row. Right column: objects without a matched detection. Bottom row: detections without an "
        "object of their own: background, double or mislocalized."
    )
    if len(ids) > _MAX_CLASSES:
        wrong = counts.sum(axis=0)[:-1] + counts.sum(axis=1)[:-1] - 2 * counts.diagonal()[:-1]
        kept = np.sort(np.argsort(-wrong, kind="stable")[:_MAX_CLASSES])
        ids, kept = [ids[i] for i in kept], np.append(kept, len(ids))
        counts = counts[np.ix_(kept, kept)]
        caption += f" Only the {_MAX_CLASSES} classes with most errors."
    labels = [short_name(names, i) for i in ids]
    side = max(4.2, 1.6 + 0.34 * len(ids)) if len(ids) <= 20 else 2 + 0.125 * len(ids)
    draw = partial(_draw_confusion, counts=counts, labels=labels)
    return Figure("confusion", "Confusion matrix", draw, (side, side), caption, len(ids) > 8)


def _draw_threshold(ax: Axes, analysis: Analysis) -> None:
    matches = analysis.matches
    order = np.argsort(-matches.scores, kind="stable")
    scores, correct = matches.scores[order], matches.is_correct[order].cumsum()
    num_objects, kept = sum(matches.num_objects.values()), np.arange(1, len(order) + 1)
    shown = np.unique(np.linspace(0, len(order) - 1, 300).astype(int))  # keeps the file small
    for label, values in (
        ("precision", correct / kept),
        ("recall", correct / num_objects),
        ("F1", 2 * correct / (kept + num_objects)),
    ):
        ax.plot(scores[shown], values[shown], label=label)
    ax.axvline(analysis.threshold, color=INK, linestyle=":", linewidth=1)
    ax.set(xlabel="score threshold", xlim=(0, 1), ylim=(0, 1.03))
    ax.legend()


def _draw_calibration(ax: Axes, analysis: Analysis) -> None:
    found = calibration(analysis.matches)
    ax.plot([0, 1], [0, 1], ":", color=INK, linewidth=1)
    ax.plot(found.scores, found.correct, color=COLORS[0])
    sizes = 8 + 90 * found.counts / max(found.counts.max(initial=1), 1)
    ax.scatter(found.scores, found.correct, sizes, color=COLORS[0])
    ax.set(xlabel="score", ylabel="correct", xlim=(0, 1), ylim=(0, 1.03))


def _draw_kinds(ax: Axes, analysis: Analysis) -> None:
    numbers = analysis.kinds()
    colors = [COLORS[2] if kind is ErrorKind.CORRECT else COLORS[1] for kind in ErrorKind]
    axis = ClassAxis([kind.value for kind in ErrorKind])
    bars = axis.bars(ax, [numbers[kind] for kind in ErrorKind], colors)
    ax.bar_label(bars, padding=3, fontsize=8)
    ax.margins(x=0.12)
    axis.finish(ax, "detections; objects for missed")


def _draw_confusion(ax: Axes, counts: np.ndarray, labels: list[str]) -> None:
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    norm = PowerNorm(0.5, 0, 1)  # shows rare confusions
    ax.imshow(shares, cmap="cividis", norm=norm, interpolation="nearest")
    ax.grid(visible=False)
    many = len(labels) > 20
    ticks = range(len(labels) + 1)
    size: dict[str, Any] = {"fontsize": 6 if many else 8}
    ax.set_yticks(ticks, [*labels, "no object"], **size)
    ax.set_xticks(ticks, [*labels, "not found"], rotation=90 if len(labels) > 4 else 30, **size)
    ax.set(xlabel="detected", ylabel="object")
    if len(labels) > _MAX_CELLS_WITH_COUNTS:
        return
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "#ffffff" if shares[row, column] < 0.3 else "#111111"
            ax.text(column, row, str(count), ha="center", va="center", color=color, fontsize=7)
