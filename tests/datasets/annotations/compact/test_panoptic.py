"""Panoptic annotations in arrays are those of the file, and refused as by the slow checks."""

import copy
import json
import logging
import pickle

import hypothesis
import pytest
from hypothesis import strategies as st

from datasets.annotations.compact.json_blocks import IrregularError
from datasets.annotations.compact.panoptic import PanopticSegments, read_panoptic
from datasets.annotations.panoptic import check_panoptic, load_panoptic
from tests.datasets.annotations.compact.test_instances import refusal_of
from tests.datasets.json_strategies import edited, edits, wild_files, write_json
from tests.datasets.panoptic_cases import write_panoptic
from tests.datasets.test_any_annotations import PANOPTIC_FIELDS


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_panoptic(tmp_path_factory.mktemp("panoptic"))


@pytest.fixture(scope="module")
def good(root):
    return json.loads((root / "annotations" / "panoptic_val2017.json").read_text())


@pytest.mark.parametrize("from_file", [True, False])
def test_rows_are_those_of_the_file(root, good, from_file):
    path = root / "annotations" / "panoptic_val2017.json"
    found = PanopticSegments(path if from_file else copy.deepcopy(good))
    images = sorted(good["images"], key=lambda row: row["id"])
    maps = sorted(good["annotations"], key=lambda row: row["image_id"])
    assert found.ids == [row["id"] for row in images] == [10, 30]
    assert [found.image(i) for i in found.ids] == images
    assert [found.map_of(i) for i in found.ids] == maps
    assert found.tables() == {**good, "images": images, "annotations": maps}
    assert pickle.loads(pickle.dumps(found)).tables() == found.tables()
    assert found.map_names == [row["file_name"] for row in good["annotations"]]
    segments = [one for row in good["annotations"] for one in row["segments_info"]]
    assert found.category_ids.tolist() == sorted({one["category_id"] for one in segments})
    assert len(found.segment_images) == len(segments)
    with pytest.raises(KeyError):
        found.map_of(20)


def edited_segments(good, replacements):
    data = copy.deepcopy(good)
    for _, index, field, value in replacements:
        segments = data["annotations"][index % 2]["segments_info"]
        segments[index // 2 % len(segments)][field] = value
    return data


SEGMENT_FIELDS = ["id", "category_id", "iscrowd", "area", "bbox"]
OPTIONS = st.fixed_dictionaries(
    {"training": st.booleans(), "num_classes": st.sampled_from([None, 193, 194])}
)


@hypothesis.given(
    edits(PANOPTIC_FIELDS).map(lambda found: ("rows", found))
    | edits(SEGMENT_FIELDS).map(lambda found: ("segments", found))
    | wild_files(PANOPTIC_FIELDS).map(lambda found: ("file", found)),
    OPTIONS,
)
def test_every_file_is_refused_as_by_the_slow_checks(root, good, case, options):
    kind, content = case
    if kind != "file":
        content = edited(good, content) if kind == "rows" else edited_segments(good, content)
    write_json(root / "any.json", content)
    paths = root / "any.json", root / "panoptic_val2017", root / "val2017"
    expected = refusal_of(lambda: check_panoptic(load_panoptic(paths[0]), *paths, **options))
    assert refusal_of(lambda: read_panoptic(*paths, **options)) == expected
    if expected is None:
        tables = read_panoptic(*paths, **options).tables()
        for rows, key in (("images", "id"), ("annotations", "image_id")):
            content[rows].sort(key=lambda row, key=key: row[key])
        assert json.dumps(tables, sort_keys=True) == json.dumps(content, sort_keys=True)


def test_two_segments_with_the_same_id(good):
    data = copy.deepcopy(good)
    first, second = (row["segments_info"] for row in data["annotations"])
    second[0]["id"] = first[0]["id"]  # of different images
    PanopticSegments(data)
    second[1]["id"] = first[0]["id"]
    with pytest.raises(IrregularError):
        PanopticSegments(data)


def test_warnings_are_those_of_the_whole_tables(tmp_path, caplog):
    def change(data):
        data["annotations"][0]["segments_info"] = []
        data["images"][1]["file_name"] = "../panoptic_val2017/10.png"

    root = write_panoptic(tmp_path, change)
    paths = root / "annotations" / "panoptic_val2017.json", root / "panoptic_val2017"
    with caplog.at_level(logging.WARNING):
        read_panoptic(*paths, root / "val2017")
    outside, empty = (record.getMessage() for record in caplog.records)
    assert "1 image has a file_name that points outside" in outside and "image id 10" in outside
    assert "1 image has no segments" in empty
