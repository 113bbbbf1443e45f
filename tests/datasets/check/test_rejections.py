"""What training's check refuses becomes findings, each with its places."""

import pytest

from datasets.annotations.checks import check_annotations
from datasets.check.coco import add_rejections
from datasets.check.findings import EXAMPLES_KEPT, Findings
from util.errors import UserError


def findings_for(data, folder, **options):
    with pytest.raises(UserError) as refusal:
        check_annotations(data, "a; b: file.json", folder, **options)
    findings = Findings("train")
    add_rejections(findings, refusal.value, {1: "1.jpg"})
    return findings.all()


def test_counts_messages_and_places(tmp_path):
    box = {"image_id": 1, "category_id": 3, "bbox": [1, 1, 2, 2]}
    data = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "categories": [{"id": 3}, {"id": -3}],
        "annotations": [
            *({**box, "id": number, "area": "a; 2 of (it), and 9 more"} for number in range(5)),
            {**box, "id": "seven"},
            {**box, "id": 8, "image_id": 2},
        ],
    }
    (tmp_path / "1.jpg").touch()
    found = {one.message: one for one in findings_for(data, tmp_path)}
    assert [one.count for one in found.values()] == [1, 1, 5, 1]
    label, number, area, stray = found.values()
    assert (label.examples[0].category_id, label.examples[0].detail) == (-3, "id -3")
    assert (number.examples[0].annotation_id, number.examples[0].image_id) == ("'seven'", 1)
    assert area.message.startswith("annotations have an invalid area (must be a finite number")
    assert [one.annotation_id for one in area.examples] == [0, 1, 2, 3, 4]
    assert {one.file_name for one in area.examples} == {"1.jpg"}
    assert all("area 'a; 2 of" in one.detail for one in area.examples)
    assert (stray.examples[0].image_id, stray.examples[0].file_name) == (2, None)


def test_missing_files_are_reported_once(tmp_path):
    data = {"images": [{"id": 1, "file_name": "1.jpg"}], "categories": [], "annotations": []}
    (finding,) = findings_for(data, tmp_path)
    assert (finding.kind, finding.count, finding.examples[0].image_id) == ("refused", 1, 1)
    assert finding.examples[0].detail == "file_name '1.jpg'"
    findings = Findings("train")
    findings.add("missing_file", finding.examples[0])
    with pytest.raises(UserError) as refusal:
        check_annotations(data, "file.json", tmp_path)
    add_rejections(findings, refusal.value, {})
    assert [one.kind for one in findings.all()] == ["missing_file"]


def test_another_refusal_is_one_finding():
    text = "annotation file x has no images"
    findings = Findings("val")
    add_rejections(findings, UserError(text), {})
    (finding,) = findings.all()
    assert (finding.message, finding.count, finding.split) == (text, 1, "val")


def test_places_are_counted_beyond_those_kept(tmp_path):
    images = [{"id": number, "file_name": 5} for number in range(EXAMPLES_KEPT + 7)]
    data = {"images": images, "categories": [], "annotations": []}
    (finding,) = findings_for(data, tmp_path)
    assert (finding.count, len(finding.examples)) == (EXAMPLES_KEPT + 7, EXAMPLES_KEPT)


def test_ids_of_any_type_are_described(tmp_path):
    data = {"images": [{"id": {"a": [1]}, "file_name": 5}], "categories": [], "annotations": []}
    number, name = findings_for(data, tmp_path)
    assert {one.examples[0].image_id for one in (number, name)} == {"{'a': [1]}"}
    assert name.examples[0].detail == "file_name 5"
