"""What training refuses in an annotation file, as findings of a report.

Training's own check, `datasets.annotation_checks.check_annotations`, decides; it tells everything
in one line, which is taken apart here again, so that both always agree.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from datasets.check_findings import Example, Findings

_TABLES = "images|annotations|categories"
_BEGINS = re.compile(rf"(?:^.*? must be mended: |; )(?=\d+ of the (?:{_TABLES}) )", re.DOTALL)
_PROBLEM = re.compile(rf"(\d+) of the ((?:{_TABLES}) .*?): ((?:annotation|image|category) id .*)")
_PLACE = re.compile(
    r"(?:annotation id (?P<annotation>.+?) of )?(?P<kind>image|category) id (?P<id>.+?)"
    r"(?: \((?P<detail>\w+ .*?)\))?"
    r"(?:, (?=(?:annotation|image|category) id )| and \d+ more$|$)"
)
_MISSING = "have no file in"


class _Problem(NamedTuple):
    """One problem of the line: how many rows have it, in words, and the first of them."""

    num_rows: int
    message: str
    places: str


def note_refusal(findings: Findings, refusal: str, file_names: Mapping[int, str]) -> None:
    """Note each problem that training's check of the annotation file has told.

    Args:
        findings: gets an error for each. Missing files that it has already are not told again.
        refusal: message of the error that the check has raised.
        file_names: of each image id.
    """
    for text in filter(None, _BEGINS.split(" ".join(refusal.split()))):
        problem = _taken_apart(text)
        if _MISSING in problem.message and findings.has("missing_file"):
            continue
        places = list(_places(problem.places, file_names)) or [Example(detail=problem.places)]
        findings.note_many("refused", problem.num_rows, places, problem.message)


def _taken_apart(text: str) -> _Problem:
    """Count, problem and places; a text without them is one problem of the whole file."""
    match = _PROBLEM.fullmatch(text)
    if match is None:
        return _Problem(1, text, "")
    return _Problem(int(match[1]), match[2], match[3])


def _places(text: str, file_names: Mapping[int, str]) -> Iterator[Example]:
    for match in _PLACE.finditer(text):
        number, detail = _id(match["id"]), match["detail"] or ""
        if match["kind"] == "category":
            yield Example(category_id=number, detail=detail)
            continue
        name = file_names.get(number) if isinstance(number, int) else None
        annotation = None if match["annotation"] is None else _id(match["annotation"])
        yield Example(image_id=number, annotation_id=annotation, file_name=name, detail=detail)


def _id(text: str) -> int | str:
    """An id, of which the line has the Python form."""
    return int(text) if re.fullmatch(r"-?\d+", text) else text
