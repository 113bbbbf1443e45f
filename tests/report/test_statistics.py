"""Figures of the data's statistics."""

from collections import Counter

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from report.statistics import SplitCounts, data_figures

SPLITS = {
    name: SplitCounts(9, 0, Counter({1: count, 2: count}), np.ones(9, dtype=int), sides)
    for name, count, sides in (
        ("training", 900, np.array([20.0, 70])),
        ("validation", 90, np.array([25.0, 60])),
    )
}


@pytest.fixture
def drawn():
    """The canvas of each figure by name, laid out."""
    canvases = {}
    for figure in data_figures(SPLITS, {1: "cross", 2: "star"}):
        canvas = Canvas(figsize=figure.size_inches, layout="constrained")
        figure.draw(canvas.add_subplot())
        canvas.draw_without_rendering()
        canvases[figure.name] = canvas
    return canvases


def test_the_legend_covers_no_bar(drawn):
    (ax,) = drawn["objects_by_class"].axes
    legend = ax.get_legend().get_window_extent()
    assert not any(legend.overlaps(bar.get_window_extent()) for bar in ax.patches)


def test_the_axis_of_box_sizes_begins_near_the_smallest_box(drawn):
    (ax,) = drawn["box_sizes"].axes
    assert ax.get_xlim()[0] > 10
    assert ax.get_xticks().tolist() == [16, 32, 64]
