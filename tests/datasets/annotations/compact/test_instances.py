"""Instance annotations in arrays are those of pycocotools, and refused as by the slow checks."""

import copy
import json
import pickle

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from pycocotools.coco import COCO

from datasets.annotations.checks import check_annotations
from datasets.annotations.coco_file import fill_optional_fields, load_annotations
from datasets.annotations.compact import tables
from datasets.annotations.compact.instances import Instances, read_instances
from datasets.annotations.compact.json_blocks import IrregularError
from tests.datasets.json_strategies import edited, edits, wild_files, write_json
from tests.datasets.test_any_annotations import FIELDS, GOOD
from util.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    for number in (1, 2):
        (folder / f"{number}.png").touch()
    return folder


def random_file(seed, num_images=30, num_objects=200):
    """Images without objects, ids not in order, objects of an image apart from each other."""
    rng = np.random.default_rng(seed)
    image_ids = rng.permutation(10 * num_images)[:num_images].tolist()
    images = [
        {"id": i, "file_name": f"sub/é {i}.jpg", "width": 640, "height": 480, "own": [i]}
        for i in image_ids
    ]
    annotations = []
    for number in rng.permutation(num_objects).tolist():
        polygons = [rng.uniform(0, 400, 2 * k).round(2).tolist() for k in (3, 5)]
        row = {
            "id": number,
            "image_id": image_ids[int(rng.integers(num_images // 2))],
            "category_id": int(rng.choice([3, 2**62])),
            "bbox": rng.uniform(1, 200, 4).tolist(),
            "segmentation": polygons,
            "iscrowd": int(rng.random() < 0.1),
            "area": rng.uniform(1, 400),
            "attributes": {"color": "rød", "parts": [{"a": 1}, {"b": 2}]},
        }
        for field in ("area", "iscrowd", "segmentation", "attributes"):
            if rng.random() < 0.2:
                del row[field]
        annotations.append(row)
    categories = [{"id": 3, "name": "cat"}, {"id": 2**62}]
    return {
        "info": {"year": 2026},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("from_file", [True, False])
def test_rows_are_those_of_pycocotools(tmp_path, seed, from_file, capsys):
    data = random_file(seed)
    write_json(tmp_path / "a.json", data)
    coco = COCO(str(tmp_path / "a.json"))
    fill_optional_fields(coco.dataset["annotations"])
    found = Instances(tmp_path / "a.json" if from_file else data)
    assert found.ids == sorted(coco.imgs)
    for image_id in found.ids:
        assert found.image(image_id) == coco.imgs[image_id]
        expected = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
        assert found.annotations_of(image_id) == expected
    assert found.tables() == coco.dataset
    assert found.file_names == [row["file_name"] for row in data["images"]]
    copied = pickle.loads(pickle.dumps(found))
    assert copied.tables() == coco.dataset


def test_arrays_are_the_fields_of_the_rows():
    data = random_file(5)
    found, rows = Instances(data), data["annotations"]
    assert found.category_id.tolist() == [row["category_id"] for row in rows]
    assert found.bbox.tolist() == [row["bbox"] for row in rows]
    assert found.iscrowd.tolist() == [bool(row.get("iscrowd")) for row in rows]
    image_ids = [data["images"][k]["id"] for k in found.image_row]
    assert image_ids == [row["image_id"] for row in rows]
    assert found.has_shape.tolist() == ["segmentation" in row for row in rows]


def test_a_row_may_be_changed_by_its_user():
    found = Instances(random_file(0))
    image_id = found.ids[0]
    for row in found.annotations_of(image_id):
        row.clear()
    assert all(found.annotations_of(image_id))


@pytest.mark.parametrize("image_id", [-1, 4, 10**9])
def test_unknown_images(image_id):
    with pytest.raises(KeyError):
        Instances(GOOD).annotations_of(image_id)


def refusal_of(read):
    try:
        read()
    except UserError as error:
        return str(error)
    return None


OPTIONS = st.fixed_dictionaries(
    {
        "training": st.booleans(),
        "masks": st.booleans(),
        "num_classes": st.sampled_from([None, 4, 5]),
    }
)


@hypothesis.given(edits(FIELDS) | wild_files(FIELDS), OPTIONS, st.integers(1, 3))
@pytest.mark.parametrize("in_memory", [True, False])
def test_every_file_is_refused_as_by_the_slow_checks(folder, in_memory, data, options, at_once):
    """The fast and the slow reader raise the same errors, and accept the same rows."""
    data = edited(GOOD, data) if isinstance(data, list) else data
    path = folder / "any.json"
    write_json(path, data)

    def slow():
        check_annotations(load_annotations(path), path, folder, **options)

    def fast():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tables, "_ROWS_AT_ONCE", at_once)
            given = load_annotations(path) if in_memory else None
            return read_instances(path, folder, data=given, **options)

    expected = refusal_of(slow)
    assert refusal_of(fast) == expected
    if expected is None:
        rows = load_annotations(path)
        fill_optional_fields(rows["annotations"])
        assert json.dumps(fast().tables(), sort_keys=True) == json.dumps(rows, sort_keys=True)


def test_a_regular_file_is_not_read_a_second_time(folder, monkeypatch):
    def slow(*_, **__):
        pytest.fail("it is checked row by row")

    monkeypatch.setattr("datasets.annotations.compact.instances.load_annotations", None)
    monkeypatch.setattr("datasets.annotations.compact.instances.check_annotations", slow)
    data = copy.deepcopy(GOOD)
    data["annotations"][0]["iscrowd"] = True
    write_json(folder / "good.json", data)
    read_instances(folder / "good.json", folder, training=True, masks=True, num_classes=5)


def test_category_ids_that_are_strings_are_read_as_a_whole(tmp_path):
    data = json.loads(json.dumps(GOOD).replace('"category_id": 3', '"category_id": "cat"'))
    data["categories"][0]["id"] = "cat"
    for image in data["images"]:
        (tmp_path / image["file_name"]).touch()
    write_json(tmp_path / "a.json", data)
    with pytest.raises(IrregularError):
        Instances(tmp_path / "a.json")
    found = read_instances(tmp_path / "a.json", tmp_path)
    assert found.tables() == load_annotations(tmp_path / "a.json") | {
        "annotations": found.annotations_of(1) + found.annotations_of(2)
    }


RLE = {"size": [12, 16], "counts": [192]}
SQUARE = [1, 1, 5, 1, 5, 5, 1, 5]


@pytest.mark.parametrize(
    ("segmentation", "has_shape"),
    [
        ([SQUARE], True),
        ([SQUARE, [1, 2]], True),  # the second is left out
        ([[1, 2]], False),
        ([], False),
        (None, False),
        ([[*SQUARE, 1]], False),
        ([[1.5, 1e7, 2, 2, 3, 3]], False),
        ([[0, 0, 3e6, 0, 3e6, 3e6, 0, 3e6]], False),  # an endless outline
        ([[0, 0, 3e6, 0, 3e6, 0]], False),
        ([[0, 0, 1e6, 0, 1e6, 0]], True),
        ([[1, 1, 5, 1, 5, float("nan")]], False),
        ([[1, 1, 5, 1, 5, "5"]], False),
        ([[1, 1, 5, 1, 5, True]], False),
        ([[1, 1, 5, 1, 5, 10**400]], False),
        (RLE, True),
        (RLE | {"counts": "P7"}, False),
        (RLE | {"size": [16, 12]}, False),
        (RLE | {"size": [2**40, 1], "counts": [2**40]}, False),
    ],
)
@pytest.mark.parametrize("from_file", [True, False])
def test_segmentations_without_a_mask(tmp_path, segmentation, has_shape, from_file):
    data = copy.deepcopy(GOOD)
    data["annotations"][0]["segmentation"] = segmentation
    write_json(tmp_path / "a.json", data)
    found = Instances(tmp_path / "a.json" if from_file else data)
    assert found.has_shape.tolist() == [has_shape, True]
    assert repr(found.annotations_of(1)[0]["segmentation"]) == repr(segmentation)


@pytest.mark.parametrize(
    ("text", "has_shape"),
    [
        ("[[1,2,3,4,5,6]]", True),
        ("[[1, 2.25, -3, 4, 0, 0.5], [1, 2, 3, 4, 5, 6]]", True),
        ("[[1,\n2,3,4,5,6]]", True),
        ("[[" + ", ".join(["9999.99"] * 402) + "]]", True),
        ("[[" + ", ".join(["9999.99"] * 403) + "]]", False),
        ("[[1e1, 2, 3, 4, 5, 6]]", True),
        ("-Infinity", False),
        ("NaN", False),
        ('"-Infinity"', False),
        *(
            (f"[[{number}, 2, 3, 4, 5, 6]]", None)
            for number in ("01", "1.", ".5", "--1", "+1", "1..2", "1 2", "", "-", "0x1")
        ),
        ("[[1, 2, 3, 4, 5, 6]", None),
        ("[[1, 2, 3, 4, 5, 6],]", None),
        ("[1, 2, 3, 4, 5, 6]]", None),
    ],
)
def test_polygons_in_a_file_that_json_cannot_read_are_refused(tmp_path, text, has_shape):
    data = copy.deepcopy(GOOD)
    data["annotations"][0]["segmentation"] = "here"
    path = tmp_path / "a.json"
    path.write_text(json.dumps(data).replace('"here"', text))
    if has_shape is None:
        with pytest.raises(ValueError):
            json.loads(path.read_text())
        with pytest.raises(IrregularError):
            Instances(path)
    else:
        assert Instances(path).has_shape.tolist() == [has_shape, True]
