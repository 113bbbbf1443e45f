"""Style of the figures, and saving them as SVG and PNG."""

import html
import io
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from util.files.checkpoint_file import atomic_write

# Okabe and Ito's colors, distinct for color-blind readers too.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
INK, LINES = "#1b1f24", "#c9d1d9"
# Replaced by CSS variables of the page, which have other values in dark mode.
_PAGE_COLORS = {INK: "ink", LINES: "lines", COLORS[0]: "blue"}
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "grid.color": LINES,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "text.parse_math": False,  # a class may be called $x$
    "svg.fonttype": "none",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
}
_PAPER_DPI = 200
_MAX_ROWS = 15  # horizontal bars; for more classes, vertical bars over the whole width


class Figure(NamedTuple):
    """A figure of the report.

    Attributes:
        name: name of its files, without suffix.
        title: heading.
        draw: draws the figure on axes.
        size_inches: width and height.
        caption: explanation below the heading; may be empty.
        is_wide: whether the figure takes the whole width of the page.
    """

    name: str
    title: str
    draw: Callable[[Axes], None]
    size_inches: tuple[float, float] = (4.6, 3.1)
    caption: str = ""
    is_wide: bool = False


def save_figure(figure: Figure, folder: Path) -> str:
    """Draw a figure and write ``NAME.png`` and ``NAME.svg``.

    Args:
        folder: existing folder.

    Returns:
        the ``<svg>`` element for the page, in the colors of the page.
    """
    # Element ids differ between figures, and are the same in every run.
    salt: dict[Any, Any] = {"svg.hashsalt": figure.name}
    with matplotlib.rc_context(_STYLE | salt), warnings.catch_warnings():
        # The browser has a font for glyphs that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas = Canvas(figsize=figure.size_inches, layout="constrained")
        figure.draw(canvas.add_subplot())
        svg = io.StringIO()
        canvas.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        canvas.set_layout_engine("none")  # reuse the layout, which is slow to compute
        with atomic_write(folder / f"{figure.name}.png") as file:
            canvas.savefig(file, format="png", dpi=_PAPER_DPI)
    with atomic_write(folder / f"{figure.name}.svg", "w") as file:
        file.write(svg.getvalue())
    return _for_page(svg.getvalue(), figure.title)


def _for_page(svg: str, title: str) -> str:
    """The ``<svg>`` element of a file, scalable, in the colors of the page."""
    start = svg.index("<svg")
    opening, rest = svg[start:].split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', opening)
    assert view_box is not None
    rest = re.sub(r"\s*<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    rest = re.sub(r'<g id="[^"]*"', "<g", rest)  # not unique on the page
    for color, variable in _PAGE_COLORS.items():
        rest = rest.replace(color, f"var(--{variable})")
    return (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {view_box[0]} role="img" '
        f'aria-label="{html.escape(title)}">{rest}'
    )


def both_ends(items: list[Any], number: int) -> list[Any]:
    """The first and the last items, ``number`` in all; all items if there are not more."""
    return items if len(items) <= number else items[: number // 2] + items[-number // 2 :]


class ClassAxis:
    """Axis with class names: the y axis for few classes, the x axis for many.

    Args:
        labels: names, top to bottom or left to right.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels
        self.is_wide = len(labels) > _MAX_ROWS
        self._positions = np.arange(len(labels))
        rows = max(1.8, 0.8 + 0.19 * len(labels))
        self.size_inches = (max(7, 0.9 + 0.13 * len(labels)), 3.6) if self.is_wide else (4.6, rows)

    def bars(
        self, ax: Axes, values: Sequence[float], color: Any, width: float = 0.65, offset: float = 0
    ) -> Any:
        """Draw a bar for each class."""
        draw = ax.bar if self.is_wide else ax.barh
        return draw(self._positions + offset, values, width, color=color)

    def dots(self, ax: Axes, values: Sequence[float]) -> None:
        """Draw a dot for each class."""
        pair = (self._positions, values) if self.is_wide else (values, self._positions)
        ax.plot(*pair, "o", color=COLORS[1], clip_on=False)  # whole dots at the limits

    def finish(self, ax: Axes, label: str, limits: tuple[float, float] | None = None) -> None:
        """Set the class names, and the label and limits of the other axis."""
        if self.is_wide:
            ax.set_xticks(self._positions, self._labels, rotation=90, fontsize=7)
            ax.set(ylabel=label, xlim=(-0.8, len(self._labels) - 0.2))
            ax.grid(axis="x", visible=False)
        else:
            ax.set_yticks(self._positions, self._labels)
            ax.set(xlabel=label, ylim=(len(self._labels) - 0.4, -0.6))
            ax.grid(axis="y", visible=False)
        if limits is not None:
            (ax.set_ylim if self.is_wide else ax.set_xlim)(limits)

    def use_log_scale(self, ax: Axes) -> None:
        """Make the value axis logarithmic."""
        (ax.set_yscale if self.is_wide else ax.set_xscale)("log")
