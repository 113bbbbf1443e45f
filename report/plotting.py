"""Style of the figures, and their files: SVG for the page, SVG and PNG for papers."""

import html
import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from util.files.checkpoint import atomic_write

# Okabe and Ito's colours, distinct for colour-blind readers too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
INK, LINES = "#1b1f24", "#c9d1d9"  # replaced by variables of the page's style sheet
_STYLE = {
    "font.size": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
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


class Figure(NamedTuple):
    """A figure of the report.

    Attributes:
        name: of its files, without suffix.
        title: a few words above it.
        draw: draws on axes in the style of the report.
        size_inches: width and height.
        caption: what it shows, or how to read it.
        is_wide: whether it needs the whole width of the page.
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
        figure: to draw.
        folder: must exist.

    Returns:
        the ``<svg>`` element for the page. Its lines and text have the page's colours.
    """
    salt = {"svg.hashsalt": figure.name}  # ids differ between figures, and repeat between runs
    with matplotlib.rc_context({**_STYLE, **salt}), warnings.catch_warnings():
        # A browser has letters that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas = Canvas(figsize=figure.size_inches, layout="constrained")
        figure.draw(canvas.add_subplot())
        svg = io.StringIO()
        canvas.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        with atomic_write(folder / f"{figure.name}.png") as file:
            canvas.savefig(file, format="png", dpi=_PAPER_DPI)
    with atomic_write(folder / f"{figure.name}.svg", "w") as file:
        file.write(svg.getvalue())
    return _for_page(svg.getvalue(), figure.title)


def _for_page(svg: str, title: str) -> str:
    """The ``<svg>`` element of a file, scalable, in the colours of the page."""
    start = svg.index("<svg")
    opening, rest = svg[start:].split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', opening)
    assert view_box is not None
    rest = re.sub(r"\s*<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    rest = re.sub(r'<g id="[^"]*"', "<g", rest)  # equal in all figures
    rest = rest.replace(INK, "var(--ink)").replace(LINES, "var(--lines)")
    return (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {view_box[0]} role="img" '
        f'aria-label="{html.escape(title)}">{rest}'
    )
