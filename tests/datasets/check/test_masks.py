"""Segmentations that do not fit their box or their size."""

import pytest

from datasets.check.boxes import Boxes, check_masks
from datasets.check.findings import Findings
from tests.datasets.check_cases import row

BOX = [10, 10, 20, 10]
AROUND = [10, 10, 30, 10, 30, 20, 10, 20]


@pytest.mark.parametrize(
    ("segmentation", "kind"),
    [
        ([AROUND], None),
        ([[10, 10, 30, 10, 30, 20]], None),
        ([[*AROUND[:4], 20, 15], [12, 18, 28, 18, 20, 20]], None),  # together they fill the box
        ([[10, 10, 14, 10, 14, 20, 10, 20]], "mask_box_mismatch"),
        ([[value + 100 for value in AROUND]], "mask_box_mismatch"),
        ([[value / 64 for value in AROUND]], "mask_box_mismatch"),
        ({"counts": [10, 5, 9], "size": [4, 6]}, None),
        ({"counts": [10, 5], "size": [4, 6]}, None),  # reported by the check of training
        ([], None),
        (None, None),
    ],
)
def test_segmentations(segmentation, kind):
    findings = Findings("train")
    rows = [row(1, 5, BOX, segmentation=segmentation)]
    check_masks(findings, Boxes.of(rows, {}, {5: "a.jpg"}))
    assert [one.kind for one in findings.all()] == ([] if kind is None else [kind])
    if kind:
        place = findings.all()[0].examples[0]
        assert (place.annotation_id, place.image_id, place.file_name) == (1, 5, "a.jpg")


def test_an_empty_box_is_reported_elsewhere():
    findings = Findings("train")
    check_masks(findings, Boxes.of([row(1, 5, [1, 1, 0, 0], segmentation=[AROUND])], {}, {}))
    assert findings.all() == []
