"""The report, for people and as JSON."""

import re
from pathlib import Path

import pytest

from datasets.check.findings import KINDS, Example, Finding, Findings
from datasets.check.report import Report, as_json, as_text
from datasets.check.split_statistics import ClassCount, Split, SplitStatistics

ROOT = Path(__file__).parents[3]


PLACE = Example(image_id=1)


def report_of(*findings: Finding, classes=None) -> Report:
    stats = SplitStatistics(Split("train", Path("images"), Path("a.json")), {}, classes or {})
    stats.findings = list(findings)
    return Report([stats], [], 100)


def some_findings(count: int) -> Finding:
    findings = Findings("train")
    for number in range(count):
        findings.add("empty_box", Example(image_id=number, annotation_id=number + 10))
    return findings.all()[0]


def test_the_first_places_and_the_number_of_the_others():
    lines = as_text(report_of(some_findings(5))).splitlines()
    start = lines.index("warnings")
    assert lines[start + 1] == f"  train: 5 {KINDS['empty_box'].message} [empty_box]"
    assert lines[start + 2] == "      annotation id 10, image id 0"
    assert lines[start + 5] == "      and 2 more"
    assert "more" not in as_text(report_of(some_findings(3)))


def test_what_concerns_the_whole_file_is_not_counted():
    findings = Findings("train")
    findings.add("no_objects", Example())
    assert "  train: no usable boxes" in as_text(report_of(*findings.all()))


def test_a_single_place_is_reported_in_the_singular():
    text = as_text(report_of(some_findings(1)))
    assert "  train: 1 box has zero area; training ignores it [empty_box]" in text
    assert text.endswith("\nNo errors, 1 warning")
    assert "1 box exceeds its image by more than 2 pixels; training clips it" in as_text(
        report_of(Finding("box_beyond_edge", "val", KINDS["box_beyond_edge"].message, 1, [PLACE]))
    )
    assert "classes: 1, id 3" in as_text(report_of(classes={3: ClassCount("cat")}))
    assert "0 objects; 0 crowds in 0 images" in text


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_singular(kind):
    findings = Findings("train")
    findings.add(kind, Example(image_id=1))
    line = next(line for line in as_text(report_of(*findings.all())).splitlines() if kind in line)
    noun, *_ = line.removeprefix("  train: 1 ").partition(" ")
    if kind not in ("refused", "no_objects", "whole_image_boxes"):  # about a whole file
        assert not noun.endswith("s") or noun == "class"
    assert not re.search(r"\b(them|their)\b", line)


def test_the_verdict_counts_errors_and_warnings():
    def verdict(*kinds):
        findings = Findings("train")
        for kind in kinds:
            findings.add(kind, Example(image_id=1))
        return as_text(report_of(*findings.all())).splitlines()[-1]

    assert verdict() == "No errors, no warnings"
    assert verdict("empty_box", "tiny_box") == "No errors, 2 warnings"
    assert verdict("missing_file") == "1 error, no warnings"
    assert verdict("missing_file", "size_mismatch", "tiny_box") == "2 errors, 1 warning"


def test_severities_decide():
    findings = Findings("train")
    findings.add("missing_file", Example(image_id=1))
    assert report_of(*findings.all()).has_errors()
    assert not report_of(some_findings(1)).has_errors()


def test_text_cannot_upset_a_terminal():
    findings = Findings("train")
    findings.add("missing_file", Example(file_name="\x1b[31m\n\ud800", detail="\r"))
    classes = {1: ClassCount("\x1b]0;")}
    text = as_text(report_of(*findings.all(), classes=classes))
    assert not set(text) & {"\x1b", "\r", "\ud800"}


def test_json_leaves_out_what_does_not_apply():
    (warning,) = as_json(report_of(some_findings(1)))["warnings"]
    assert warning["examples"] == [{"image_id": 0, "annotation_id": 10}]


def test_many_classes_are_cut_in_the_text_only():
    report = report_of(classes={number: ClassCount(f"c{number}") for number in range(2, 150)})
    text = as_text(report)
    assert "classes: 148, ids 2 to 149; no class has id 1\n" in text
    assert "and 48 more" in text
    assert len(as_json(report)["classes"]["table"]) == 148


def test_every_kind_is_in_the_guide():
    guide = (ROOT / "docs" / "dataset_check.md").read_text(encoding="utf-8")
    for name, kind in KINDS.items():
        assert f"| `{name}` | {kind.severity} | {kind.message} |" in guide
