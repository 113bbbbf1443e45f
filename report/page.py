"""The sections of the report, and its HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from report.plotting import Figure
from report.worst_images import WorstImage


class Table(NamedTuple):
    """A table; the first column is aligned left, numbers right."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass
class Section:
    """A part of the report.

    Attributes:
        title: heading.
        text: a paragraph below it; may be empty.
        figures: with their ``<svg>`` elements, see `report.plotting.save_figure`.
        tables: below the figures.
        images: by heading.
        commands: to type in a shell, by heading.
        values: such as flags, by name.
    """

    title: str
    text: str = ""
    figures: list[tuple[Figure, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    images: Mapping[str, Sequence[WorstImage]] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def anchor(self) -> str:
        """Name of the section in links."""
        return self.title.lower().replace(" ", "-")


def render(
    title: str,
    subtitle: str,
    facts: Mapping[str, str],
    missing: Sequence[str],
    sections: Sequence[Section],
) -> str:
    """The HTML of a report. It loads nothing and runs no script; all text is escaped.

    Args:
        title: heading of the page.
        subtitle: line below it.
        facts: the most important numbers, by name.
        missing: what is not in the report.
        sections: in their order.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(
        title=title, subtitle=subtitle, facts=facts, missing=missing, sections=sections
    )
