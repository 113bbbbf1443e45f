"""Boxes in another format or place are found, right ones are not."""

import numpy as np
import pytest

from datasets.check.boxes import Boxes, check_boxes
from datasets.check.findings import Findings
from tests.datasets.check_cases import HEIGHT, WIDTH, row


def found(boxes_xywh, size_wh=(WIDTH, HEIGHT), **fields):
    """Ids of the annotations (0, 1, …) noted, by kind; each box is on an image of its own."""
    rows = [row(i, i, box, **fields) for i, box in enumerate(boxes_xywh)]
    sizes = {} if size_wh is None else dict.fromkeys(range(len(rows)), size_wh)
    findings = Findings("train")
    check_boxes(findings, Boxes.of(rows, sizes, {i: f"{i}.jpg" for i in range(len(rows))}))
    return {one.kind: [place.annotation_id for place in one.examples] for one in findings.all()}


def random_boxes(seed, count=50):
    """Boxes (count, 4) xywh, wholly inside, at least 2 pixels wide and high."""
    rng = np.random.default_rng(seed)
    extent = rng.uniform(2, [WIDTH / 2, HEIGHT / 2], (count, 2))
    start = rng.uniform(0, 1, (count, 2)) * ([WIDTH, HEIGHT] - extent)
    return np.concatenate([start, extent], axis=1)


@pytest.mark.parametrize("seed", range(5))
def test_right_boxes_pass(seed):
    assert found(random_boxes(seed).tolist()) == {}


@pytest.mark.parametrize("seed", range(5))
def test_corners_are_recognized(seed):
    boxes = random_boxes(seed)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    kinds = found(corners.tolist())
    assert set(kinds) == {"boxes_xyxy"}
    # Named are those that cannot be right as xywh.
    beyond = (corners[:, :2] + corners[:, 2:] > [WIDTH + 2, HEIGHT + 2]).any(axis=1)
    assert kinds["boxes_xyxy"] == np.flatnonzero(beyond).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_centers_are_recognized(seed):
    boxes = random_boxes(seed)
    centers = np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)
    assert set(found(centers.tolist())) == {"boxes_center"}


@pytest.mark.parametrize("seed", range(5))
def test_fractions_are_recognized(seed):
    boxes = random_boxes(seed) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
    assert set(found(boxes.tolist())) == {"boxes_normalized"}


def test_one_odd_box_makes_no_other_format():
    boxes = [*random_boxes(0).tolist(), [40, 30, 60, 45]]
    assert found(boxes) == {"box_beyond_edge": [50]}


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ([5, 5, 0, 5], "empty_box"),
        ([5, 5, 5, -1], "empty_box"),
        ([WIDTH, 5, 5, 5], "box_outside_image"),
        ([-5, 5, 5, 5], "box_outside_image"),
        ([-3, 5, 9, 5], "box_beyond_edge"),
        ([60, 5, 6.1, 5], "box_beyond_edge"),
        ([0, 0, 2 * WIDTH + 1, 5], "oversized_box"),
        ([5, 5, 0.9, 5], "tiny_box"),
        ([1e308, 0, 1e308, 5], "box_outside_image"),
    ],
)
def test_a_box_out_of_place_is_named(box, kind):
    assert found([[1, 1, 9, 9], box]) == {kind: [1]}


@pytest.mark.parametrize("box", [[-2, -2, 9, 9], [60, 40, 6, 10], [0, 0, WIDTH, HEIGHT]])
def test_rounding_errors_and_whole_images_pass(box):
    assert found([box]) == {}


def test_many_boxes_as_large_as_their_image():
    whole = [[0, 0, WIDTH, HEIGHT]]
    assert found(6 * whole + random_boxes(0, 4).tolist()) == {"whole_image_boxes": [*range(6)]}
    assert found(4 * whole + random_boxes(0, 6).tolist()) == {}


def test_without_image_sizes_only_emptiness_and_negative_places_tell():
    assert found([[0, 0, 1e9, 1e9], [5, 5, 0, 0], [-9, -9, 5, 5]], size_wh=None) == {
        "empty_box": [1],
        "box_outside_image": [2],
    }


@pytest.mark.parametrize(("area", "wrong"), [(0, True), (-1, True), (30, False), (200, True)])
def test_areas_that_no_box_has(area, wrong):
    assert found([[1, 1, 5, 6]], area=area) == ({"wrong_area": [0]} if wrong else {})


def test_repeated_boxes_name_the_first():
    rows = [row(5, 1, [1, 1, 9, 9]), row(6, 1, [1, 1, 9, 9]), row(7, 2, [1, 1, 9, 9])]
    rows.append(row(8, 1, [1, 1, 9, 9], category_id=2))
    findings = Findings("val")
    check_boxes(findings, Boxes.of(rows, {}, {}))
    (finding,) = findings.all()
    assert (finding.kind, finding.count) == ("duplicate_box", 1)
    assert finding.examples[0].annotation_id == 6
    assert "annotation id 5" in finding.examples[0].detail


def test_no_boxes():
    assert found([]) == {}
