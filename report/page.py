"""The sections of the report, and its HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from report.plotting import Figure


class ImagePair(NamedTuple):
    """Two drawings of an image side by side.

    Attributes:
        file_name: file name in the annotation file.
        caption: a few words, such as the error.
        left, right: data URLs.
    """

    file_name: str
    caption: str
    left: str
    right: str


class Table(NamedTuple):
    """A table; the first column is left-aligned, the others right-aligned."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass
class Section:
    """A part of the report.

    Attributes:
        title: heading.
        text: paragraph below the heading; may be empty.
        figures: figures with their ``<svg>`` elements, see `report.plotting.save_figure`.
        tables: tables, shown below the figures.
        images: image pairs by heading.
        commands: shell commands by heading.
        values: values by name, such as flags.
    """

    title: str
    text: str = ""
    figures: list[tuple[Figure, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    images: Mapping[str, Sequence[ImagePair]] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def anchor(self) -> str:
        """HTML id of the section."""
        return self.title.lower().replace(" ", "-")


def render(
    title: str,
    subtitle: str,
    key_figures: Mapping[str, str],
    missing: Sequence[str],
    sections: Sequence[Section],
) -> str:
    """Render a report as self-contained HTML without scripts; all text is escaped.

    Args:
        subtitle: line below the heading.
        key_figures: key numbers by name.
        sections: sections in order.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(
        title=title, subtitle=subtitle, key_figures=key_figures, missing=missing, sections=sections
    )
