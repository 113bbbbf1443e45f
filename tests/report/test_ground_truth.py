"""The data of a run are found through its flags."""

import pytest

from datasets.formats.held_out import ImageSplit
from datasets.shapes.directory import write_shapes
from report.__main__ import main
from report.ground_truth import read_ground_truth
from tests.datasets.format_cases import write_voc, write_yolo
from util.errors import UserError


def test_rows_of_the_class_head_are_no_limit_of_the_ids(tmp_path):
    write_shapes(tmp_path, num_train=3, num_val=2, image_size=64)
    flags = {"dataset_file": "coco", "data": str(tmp_path), "num_classes": 5}
    found = read_ground_truth(flags, {}, {})
    assert max(found.val.cats) == 5  # with rows 0 to 4
    assert (len(found.val.imgs), len(found.train.imgs)) == (2, 3)
    assert found.image_folder == tmp_path / "val2017"


@pytest.mark.parametrize("flag", ["data", "voc_path"])
def test_class_ids_are_those_of_the_checkpoint(tmp_path, flag):
    write_voc(tmp_path)  # on its own: 1 cat, 2 dog
    names = {1: "bird", 2: "cat", 3: "dog"}
    found = read_ground_truth({"dataset_file": "coco", flag: str(tmp_path)}, names, {})
    assert {one["category_id"] for one in found.val.anns.values()} == {2}
    assert {one["category_id"] for one in found.train.anns.values()} == {2, 3}
    assert found.val.cats[2]["name"] == "cat"


@pytest.mark.parametrize("write", [write_voc, write_yolo])
def test_flags_may_be_missing(tmp_path, write):
    found = read_ground_truth({}, {}, {"data": str(write(tmp_path))})
    assert len(found.val.imgs) == 1


def test_held_out_images_and_classes_are_those_of_the_checkpoint(tmp_path):
    write_yolo(tmp_path, {"train": list("abcd")})
    split = ImageSplit(frozenset({"images/train/a.png"}), frozenset({"images/train/c.png"}))
    flags = {"dataset_file": "coco", "data": str(tmp_path), "classes": str(tmp_path / "gone.txt")}
    for val_fraction in (0.1, 0.25):
        fraction = {"val_fraction": val_fraction}
        found = read_ground_truth({**flags, **fraction}, {1: "emu", 2: "dog"}, {}, split)
        assert [row["file_name"] for row in found.val.imgs.values()] == ["c.png"]
        assert {i: one["name"] for i, one in found.val.cats.items()} == {1: "emu", 2: "dog"}


class TestMessages:
    def test_a_path_that_is_gone(self, tmp_path):
        flags = {"dataset_file": "coco", "data": str(tmp_path / "gone")}
        with pytest.raises(UserError, match=r"gone.*; if the data has moved, give --data") as error:
            read_ground_truth(flags, {}, {})
        assert str(error.value).count("--coco_path") == 1
        with pytest.raises(UserError) as error:  # where the data was looked for is new
            read_ground_truth({}, {}, {"data": str(tmp_path / "gone")})
        assert "moved" not in str(error.value)

    def test_invalid_data_has_not_moved(self, tmp_path):
        write_voc(tmp_path)
        (tmp_path / "Annotations" / "c.xml").write_text("<annotation>")
        with pytest.raises(UserError, match=r"c\.xml") as error:
            read_ground_truth({"dataset_file": "voc", "voc_path": str(tmp_path)}, {}, {})
        assert "moved" not in str(error.value)

    def test_no_flags_at_all(self):
        with pytest.raises(UserError, match="no checkpoint names the data") as error:
            read_ground_truth({}, {}, {})
        assert str(error.value).count("--data") == 1

    def test_an_unknown_dataset_file(self, tmp_path, capsys):
        with pytest.raises(SystemExit, match="2"):
            main([str(tmp_path), "--dataset_file", "cooc"])
        assert "coco_panoptic" in capsys.readouterr().err
