"""Panoptic data from files to targets."""

import json
import random
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from datasets import build_dataset, build_ground_truth
from datasets.coco_panoptic import CocoPanoptic, build
from datasets.shapes.directory import write_shapes
from tests.datasets.panoptic_cases import (
    DOG,
    GRASS,
    HEIGHT,
    PERSON,
    SKY,
    WIDTH,
    id_map_of,
    segments_of,
    write_panoptic,
)
from util.box_ops import masks_to_boxes
from util.errors import UserError
from util.files.panoptic_png import encode_id_map


def open_val(root: Path, **options: Any) -> CocoPanoptic:
    ann_file = root / "annotations" / "panoptic_val2017.json"
    return CocoPanoptic(root / "val2017", root / "panoptic_val2017", ann_file, **options)


def flags(root: Path, **more: Any) -> Namespace:
    """Only names that the original has, as an old namespace holds."""
    return Namespace(
        dataset_file="coco_panoptic",
        coco_path=str(root),
        coco_panoptic_path=str(root),
        masks=True,
        **more,
    )


def test_sorted_by_image_id(tmp_path: Path) -> None:
    dataset = open_val(write_panoptic(tmp_path))
    assert len(dataset) == 2 and dataset.ids == [10, 30]
    assert [int(dataset[k][1]["image_id"]) for k in range(2)] == [10, 30]
    assert dataset.get_height_and_width(0) == (HEIGHT, WIDTH)
    assert dataset.categories[DOG] == "dog" and max(dataset.categories) == GRASS
    assert dataset.is_thing == {PERSON: True, DOG: True, SKY: False, GRASS: False}


def test_a_file_without_isthing_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_panoptic(tmp_path)
    assert open_val(root) and not caplog.messages
    ann_file = root / "annotations" / "panoptic_val2017.json"
    data = json.loads(ann_file.read_text())
    for row in data["categories"][1:]:
        del row["isthing"]
    ann_file.write_text(json.dumps(data))
    assert open_val(root).is_thing[DOG]
    (warning,) = caplog.messages
    assert warning.startswith(f"{ann_file}: 3 categories have no isthing (ids {DOG}, {SKY}")
    assert "ids up to 90 count as things" in warning and warning.endswith("0 for stuff")


def test_target(tmp_path: Path) -> None:
    image, target = open_val(write_panoptic(tmp_path))[0]
    ids = torch.from_numpy(id_map_of(10))
    wanted = torch.stack([ids == one["id"] for one in segments_of(10)])
    assert image.size == (WIDTH, HEIGHT)
    assert torch.equal(target["masks"].bool(), wanted) and target["masks"].dtype == torch.uint8
    assert torch.equal(target["boxes"], masks_to_boxes(wanted))
    assert target["labels"].tolist() == [PERSON, DOG, SKY, GRASS]
    assert target["area"].tolist() == wanted.sum((1, 2)).tolist()
    assert target["iscrowd"].tolist() == [0] * 4
    assert target["size"].tolist() == target["orig_size"].tolist() == [HEIGHT, WIDTH]


def test_without_masks_everything_else_is_the_same(tmp_path: Path) -> None:
    write_panoptic(tmp_path)
    with_masks = open_val(tmp_path)[1][1]
    without = open_val(tmp_path, return_masks=False)[1][1]
    assert "masks" not in without
    assert with_masks.keys() == without.keys() | {"masks"}
    assert all(torch.equal(without[name], with_masks[name]) for name in without)


def test_crowds_are_kept_and_missing_fields_are_filled_in(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        segments = data["annotations"][0]["segments_info"]
        segments[0]["iscrowd"] = 1
        del segments[1]["iscrowd"], segments[1]["area"]

    _, target = open_val(write_panoptic(tmp_path, change))[0]
    assert target["iscrowd"].tolist() == [1, 0, 0, 0]
    assert target["area"][1] == (id_map_of(10) == 10002).sum()


def test_image_without_segments_is_one_without_objects(tmp_path: Path) -> None:
    write_panoptic(tmp_path, lambda data: data["annotations"][0].update(segments_info=[]))
    void = encode_id_map(np.zeros((HEIGHT, WIDTH), dtype=np.int64))
    (tmp_path / "panoptic_val2017" / "10.png").write_bytes(void)
    dataset = build("val", flags(tmp_path))
    _, target = dataset[0]
    assert target["boxes"].shape == (0, 4) and len(target["masks"]) == len(target["labels"]) == 0


def test_build_follows_the_flags(tmp_path: Path) -> None:
    write_panoptic(tmp_path)
    dataset = build_dataset("val", flags(tmp_path, scales=[24], max_size=100))
    image, target = dataset[0]
    assert image.shape == (3, 24, 32) and target["masks"].shape == (4, 24, 32)
    assert (target["boxes"] <= 1).all()
    elsewhere = tmp_path / "images"
    (tmp_path / "val2017").rename(elsewhere)
    assert len(build("val", flags(tmp_path, val_images=str(elsewhere)))) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coco_panoptic_path": None}, "needs --coco_panoptic_path"),
        ({"coco_path": None}, "give --coco_path, or --val_images"),
        ({"train_ann": "x.json"}, "--train_ann is for instance annotations"),
    ],
)
def test_flags_that_do_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    args = Namespace(**{**vars(flags(write_panoptic(tmp_path))), **change})
    with pytest.raises(UserError, match=message):
        build("val", args)


def test_ground_truth_of_boxes_is_that_of_the_instances(tmp_path: Path) -> None:
    args = flags(write_panoptic(tmp_path))
    dataset = build("val", args)
    ground_truth = build_ground_truth(dataset, args)
    assert sorted(ground_truth.imgs) == dataset.ids
    assert {one["category_id"] for one in ground_truth.anns.values()} == {PERSON}
    dataset.ids.append(77)
    with pytest.raises(UserError, match=r"lack 1 image .*image id 77.*--val_ann"):
        build_ground_truth(dataset, args)


def test_instances_with_other_category_ids_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = flags(write_panoptic(tmp_path), skip_checks=False)
    dataset = build("val", args)
    ann_file = tmp_path / "annotations" / "instances_val2017.json"
    data = json.loads(ann_file.read_text())
    data["categories"] = [{"id": PERSON, "name": "person"}, {"id": 2, "name": "dog"}]
    ann_file.write_text(json.dumps(data))
    text = f"id 2: 'dog' has id {DOG} in the panoptic file, 2 in the instance file"
    with pytest.raises(UserError, match=rf"{text}.*--val_ann") as caught:
        build_ground_truth(dataset, args)
    files = f"the panoptic file {dataset.ann_file} and the instance file {ann_file}"
    assert files in str(caught.value)
    args.skip_checks = True
    assert build_ground_truth(dataset, args) and text in capsys.readouterr().out


def test_a_dataset_needs_only_ids_for_its_ground_truth(tmp_path: Path) -> None:
    args = flags(write_panoptic(tmp_path))
    assert sorted(build_ground_truth(SimpleNamespace(ids=[10]), args).imgs) == [10, 30]
    with pytest.raises(UserError, match=r"lack 1 image of SimpleNamespace, such as image id 77"):
        build_ground_truth(SimpleNamespace(ids=[77]), args)


def test_shapes_have_panoptic_labels(tmp_path: Path) -> None:
    root = tmp_path / "shapes"
    write_shapes(root, num_train=3, num_val=2, image_size=64)
    args = Namespace(dataset_file="shapes_panoptic", coco_path=str(root), masks=True)
    for split in ("train", "val"):
        dataset = build_dataset(split, args)
        assert {bool(thing) for thing in dataset.is_thing.values()} == {True, False}
        for index in range(len(dataset)):
            _, target = dataset[index]
            assert len(target["labels"]) == len(target["masks"]) > 0
    assert sorted(build_ground_truth(dataset, args).imgs) == dataset.ids


@pytest.mark.parametrize("crop_prob", [0, 1])
def test_training_images_are_cropped_as_asked(tmp_path: Path, crop_prob: float) -> None:
    write_panoptic(tmp_path)
    (tmp_path / "val2017").rename(tmp_path / "train2017")
    for one in (tmp_path / "panoptic_val2017", *tmp_path.glob("annotations/*_val2017.json")):
        one.rename(one.with_name(one.name.replace("val", "train")))
    random.seed(0)
    dataset = build("train", flags(tmp_path, crop_prob=crop_prob, scales=[HEIGHT]))
    whole = [dataset[0][0].shape == (3, HEIGHT, WIDTH) for _ in range(10)]
    assert all(whole) == (crop_prob == 0)
