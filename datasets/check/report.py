"""Report of a check, as text and as JSON."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from datasets.check.findings import EXAMPLES_KEPT, Example, Finding, Severity
from datasets.check.split_statistics import SplitStatistics, Spread, unused_ids
from util.text import EXAMPLES_SHOWN, count, counted

_CLASSES_SHOWN = 100
_IDS_SHOWN = 10
_NAME_WIDTH = 24


@dataclass(frozen=True)
class Report:
    """Result of a check.

    Attributes:
        splits: one or two splits.
        between: findings from comparing the splits.
        num_queries: number of queries of the model.
    """

    splits: Sequence[SplitStatistics]
    between: Sequence[Finding]
    num_queries: int

    def findings(self, severity: Severity) -> list[Finding]:
        """All findings of a severity, splits first."""
        of_splits = [finding for stats in self.splits for finding in stats.findings]
        return [finding for finding in (*of_splits, *self.between) if finding.severity == severity]

    @property
    def text_ids(self) -> dict[int, str]:
        """Id in the annotation files by category id, where it is a string."""
        return {number: text for stats in self.splits for number, text in stats.text_ids.items()}

    def has_errors(self) -> bool:
        """Whether any finding is an error."""
        return bool(self.findings("error"))


def as_json(report: Report) -> dict[str, Any]:
    """Convert the report to the JSON values described in `docs/dataset_check.md`."""
    return {
        "num_queries": report.num_queries,
        "has_errors": report.has_errors(),
        "errors": [_finding_as_json(finding, report) for finding in report.findings("error")],
        "warnings": [_finding_as_json(finding, report) for finding in report.findings("warning")],
        "splits": {stats.split.name: stats.as_json() for stats in report.splits},
        "classes": _classes_as_json(report),
    }


def _finding_as_json(finding: Finding, report: Report) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "split": finding.split,
        "message": finding.message,
        "count": finding.count,
        "examples": [
            {field: value for field, value in example._asdict().items() if value not in (None, "")}
            for example in _with_own_ids(finding.examples, report)
        ],
    }


def _with_own_ids(examples: Sequence[Example], report: Report) -> list[Example]:
    """Examples with the category ids of the annotation files."""
    shown: dict[Any, str] = report.text_ids  # by category id
    return [
        example._replace(category_id=shown.get(example.category_id, example.category_id))
        for example in examples
    ]


def _classes_as_json(report: Report) -> dict[str, Any]:
    used = _class_ids(report)
    table = []
    for number, name in used.items():
        row: dict[str, Any] = {"id": report.text_ids.get(number, number), "name": name}
        for stats in report.splits:
            if entry := stats.classes.get(number):
                row[stats.split.name] = {"objects": entry.objects, "images": entry.images}
        table.append(row)
    return {"unused_ids": list(islice(_gaps(report, used), EXAMPLES_KEPT)), "table": table}


def _gaps(report: Report, used: Collection[int]) -> Iterator[int]:
    """Unused category ids; none where ids are strings."""
    return iter(()) if report.text_ids else unused_ids(used)


def _class_ids(report: Report) -> dict[int, str]:
    """Class names by id, from all splits; if they differ, the name in the first split."""
    names = {
        number: entry.name
        for stats in reversed(report.splits)
        for number, entry in stats.classes.items()
    }
    return dict(sorted(names.items()))


def as_text(report: Report) -> str:
    """Convert the report to text, without a final newline."""
    lines = []
    for stats in report.splits:
        lines += [*_split_lines(stats, report.num_queries), ""]
    lines += [*_class_lines(report), ""]
    for severity in ("error", "warning"):
        if found := report.findings(severity):
            details = [line for finding in found for line in _finding_lines(finding, report)]
            lines += [f"{severity}s", *details, ""]
    return "\n".join([*lines, _verdict(report)])


def _split_lines(stats: SplitStatistics, num_queries: int) -> Iterator[str]:
    yield f"{stats.split.name}: {_printable(stats.split.source())}"
    yield from (f"  {_printable(remark)}" for remark in stats.split.remarks())
    yield f"  image folder      {_printable(str(stats.split.img_folder))}"
    without = len(stats.images_without_objects())
    yield f"  images            {len(stats.images)}, {without} of them without objects"
    yield (
        f"  annotations       {stats.num_annotations}: {count(stats.objects.total(), 'object')}"
        f"{_crowds(stats)}"
    )
    yield f"  objects per image {_spread(stats.objects_per_image())} (--num_queries {num_queries})"
    sizes = ", ".join(f"{number} {name}" for name, number in stats.box_areas.items())
    yield f"  object sizes      {sizes} (box area below 32², below 96², above)"
    widths, heights = zip(*stats.sizes_wh.values(), strict=True) if stats.sizes_wh else ((), ())
    yield f"  image width       {_spread(Spread.of(widths))}"
    yield f"  image height      {_spread(Spread.of(heights))}"
    if stats.survey is None:
        yield "  image files       not opened (--skip_images)"
        return
    modes = ", ".join(f"{number} × {mode}" for mode, number in stats.survey.modes.most_common())
    yield f"  image files       {stats.survey.num_read} readable{': ' if modes else ''}{modes}"
    if stats.survey.num_with_orientation:
        yield f"  EXIF orientation  in {count(stats.survey.num_with_orientation, 'file')}"


def _crowds(stats: SplitStatistics) -> str:
    """Number of crowd annotations or, in Pascal VOC, of difficult objects."""
    is_voc = stats.split.is_voc()
    if is_voc and not stats.num_crowd:
        return ""
    number = count(stats.num_crowd, "difficult object" if is_voc else "crowd")
    return f"; {number} in {count(stats.num_images_with_crowd, 'image')}"


def _spread(spread: Spread) -> str:
    return (
        f"{spread.smallest:g} to {spread.largest:g}, median {spread.median:g}, "
        f"mean {spread.mean:g}, 99th percentile {spread.percentile_99:g}"
    )


def _class_lines(report: Report) -> Iterator[str]:
    """Table of classes with their objects and images in each split."""
    names = _class_ids(report)
    if not names:
        yield "classes: none"
        return
    gaps = list(islice(_gaps(report, names), _IDS_SHOWN + 1))
    more = " …" if len(gaps) > _IDS_SHOWN else ""
    note = f"; no class has id {', '.join(map(str, gaps[:_IDS_SHOWN]))}{more}" if gaps else ""
    ids = f"ids {min(names)} to {max(names)}" if len(names) > 1 else f"id {min(names)}"
    ids = "string ids" if report.text_ids else ids
    yield f"classes: {len(names)}, {ids}{note}"
    heads = "".join(
        f"{f'{stats.split.name} objects':>14}{'share':>8}{'images':>9}" for stats in report.splits
    )
    text_ids = report.text_ids
    own_ids = {number: _printable(str(text_ids.get(number, number))) for number in names}
    width = max(6, *map(len, own_ids.values()))
    yield f"  {'id':>{width}}  {'name':<{_NAME_WIDTH}}{heads}"
    for number, name in islice(names.items(), _CLASSES_SHOWN):
        cells = "".join(_cells(stats, number) for stats in report.splits)
        padded = f"{_printable(name):<{_NAME_WIDTH}.{_NAME_WIDTH}}"
        yield f"  {own_ids[number]:>{width}}  {padded}{cells}"
    if len(names) > _CLASSES_SHOWN:
        yield f"  and {len(names) - _CLASSES_SHOWN} more (all of them with --json)"


def _cells(stats: SplitStatistics, number: int) -> str:
    entry = stats.classes.get(number)
    if entry is None:
        return f"{'–':>14}{'–':>8}{'–':>9}"
    share = entry.objects / max(stats.objects.total(), 1)
    return f"{entry.objects:>14}{share:>8.1%}{entry.images:>9}"


def _finding_lines(finding: Finding, report: Report) -> Iterator[str]:
    # A problem of the whole file has no example, and is not counted.
    is_counted = finding.examples != [Example()]
    message = counted(finding.count, finding.message) if is_counted else finding.message
    yield f"  {finding.split}: {_printable(message)} [{finding.kind}]"
    shown = _with_own_ids(finding.examples[:EXAMPLES_SHOWN], report)
    yield from (f"      {_example(example)}" for example in shown if _example(example))
    if finding.count > len(shown):
        yield f"      and {finding.count - len(shown)} more"


def _example(example: Example) -> str:
    ids = {
        "annotation id": example.annotation_id,
        "image id": example.image_id,
        "category id": example.category_id,
    }
    parts = [f"{name} {_printable(str(value))}" for name, value in ids.items() if value is not None]
    if example.file_name is not None:
        parts.append(_printable(example.file_name))
    where = ", ".join(parts)
    return ": ".join(filter(None, [where, _printable(example.detail)]))


def _verdict(report: Report) -> str:
    errors, warnings = (len(report.findings(severity)) for severity in ("error", "warning"))
    if not errors and not warnings:
        return "No errors, no warnings"
    counts = [
        count(number, noun) if number else f"no {noun}s"
        for number, noun in ((errors, "error"), (warnings, "warning"))
    ]
    return ", ".join(counts).capitalize()


def _printable(text: str) -> str:
    """Escape control characters and lone surrogates."""
    return text if text.isprintable() else ascii(text)
