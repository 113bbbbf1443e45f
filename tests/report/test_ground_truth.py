"""The data of a run are found through its flags."""

from datasets.shapes.directory import write_shapes
from report.ground_truth import read_ground_truth


def test_rows_of_the_class_head_are_no_limit_of_the_ids(tmp_path):
    write_shapes(tmp_path, num_train=3, num_val=2, image_size=64)
    flags = {"dataset_file": "coco", "data": str(tmp_path), "num_classes": 5, "masks": False}
    found = read_ground_truth(flags, {})
    assert max(found.val.cats) == 5  # with rows 0 to 4
    assert (len(found.val.imgs), len(found.train.imgs)) == (2, 3)
    assert found.image_folder == tmp_path / "val2017"
