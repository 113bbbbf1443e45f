"""Panoptic annotation files: errors are reported in one line that names the file."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets.annotations.compact.panoptic import read_panoptic
from datasets.annotations.panoptic import load_panoptic, thing_flags
from datasets.coco_panoptic import CocoPanoptic
from tests.datasets.odd_images import png_that_claims, saved
from tests.datasets.panoptic_cases import HEIGHT, WIDTH, id_map_of, write_panoptic
from util.errors import UserError
from util.files.panoptic_png import MAX_ID, encode_id_map

Data = dict[str, Any]


def check(root: Path, **options: Any) -> None:
    ann_file = root / "annotations" / "panoptic_val2017.json"
    folders = root / "panoptic_val2017", root / "val2017"
    read_panoptic(ann_file, *folders, **options)


def read_all(root: Path) -> None:
    ann_file = root / "annotations" / "panoptic_val2017.json"
    dataset = CocoPanoptic(root / "val2017", root / "panoptic_val2017", ann_file)
    for index in range(len(dataset)):
        dataset[index]


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def segment(data: Data, **fields: Any) -> None:
    data["annotations"][0]["segments_info"][1].update(fields)


def test_a_good_file_passes(tmp_path: Path) -> None:
    check(write_panoptic(tmp_path), training=True, num_classes=194)
    read_all(tmp_path)


FAULTS: list[tuple[Callable[[Data], Any], list[str]]] = [
    (lambda d: segment(d, category_id=55), ["1 segment has", "category_id", "id 10002", "55"]),
    (lambda d: segment(d, category_id="dog"), ["invalid category_id", "image id 10"]),
    (lambda d: segment(d, id=0), ["invalid id", f"from 1 to {MAX_ID}", "id 0 of image id 10"]),
    (lambda d: segment(d, id=MAX_ID + 1), ["invalid id", str(MAX_ID + 1)]),
    (lambda d: segment(d, id=10001), ["has the same id as another", "segment id 10001"]),
    (lambda d: segment(d, iscrowd=2), ["invalid iscrowd", "0 or 1"]),
    (lambda d: segment(d, area=1.5), ["invalid area", "1.5"]),
    (lambda d: d["annotations"].pop(), ["1 image has", 'no entry in "annotations"', "id 30"]),
    (lambda d: d["images"].pop(), ["image_id that is not among the images", "image id 10"]),
    (lambda d: d["annotations"].append(d["annotations"][0]), ["have the same image_id"]),
    (lambda d: d["images"][0].update(id=10), ["have the same id", "image id 10"]),
    (lambda d: d["images"][0].pop("width"), ["has no width", "image id 30"]),
    (lambda d: d["images"][0].update(file_name="no.jpg"), ["no file in", "no.jpg"]),
    (lambda d: d["annotations"][0].update(file_name="no.png"), ["no file in", "no.png"]),
    (lambda d: d["annotations"][0].pop("segments_info"), ["has no segments_info", "image id 10"]),
    (lambda d: d["annotations"][0].update(segments_info=[3]), ["must be a list of objects"]),
    (lambda d: d["images"][0].update(width=10**9), ["invalid width", "from 1 to 65535", "id 30"]),
    (lambda d: d["images"][0].update(width=60_000, height=60_000), ["width times height above"]),
    (lambda d: segment(d, area=10**300), ["invalid area", "image id 10"]),
    (lambda d: d["annotations"][0].update(file_name="a\0.png"), ["invalid file_name", "id 10"]),
    (lambda d: d["categories"][0].update(isthing="yes"), ["invalid isthing", "category id 1"]),
    (lambda d: d["categories"][0].pop("id"), ["1 category has no id"]),
    (lambda d: d["images"].clear(), ["has no images"]),
    (lambda d: d.pop("categories"), ['"categories" must be a list of objects']),
]


@pytest.mark.parametrize(("change", "words"), FAULTS)
def test_a_fault_is_named(tmp_path: Path, change: Callable[[Data], Any], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        check(write_panoptic(tmp_path, change))
    message = one_line(error)
    assert "panoptic_val2017.json" in message
    assert all(word in message for word in words), message


def test_class_beyond_the_head(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="--num_classes 91 is too small: the largest category id is 193, so 194"
    ):
        check(write_panoptic(tmp_path), num_classes=91)


@pytest.mark.parametrize(("training", "flag"), [(True, "--train_images"), (False, "--val_images")])
def test_images_elsewhere_are_reported_with_the_flag(
    tmp_path: Path, training: bool, flag: str
) -> None:
    root = write_panoptic(tmp_path)
    ann_file = root / "annotations" / "panoptic_val2017.json"
    folders = root / "panoptic_val2017", root / "annotations"
    with pytest.raises(UserError, match=f"exist in {root}/val2017: use {flag} {root}/val2017"):
        read_panoptic(ann_file, *folders, training=training)


@pytest.mark.parametrize("gone", ["annotations", "panoptic_val2017", "val2017"])
def test_path_that_is_not_there(tmp_path: Path, gone: str) -> None:
    (write_panoptic(tmp_path) / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError) as error:
        read_all(tmp_path)
    message = one_line(error)
    assert str(tmp_path / gone) in message
    assert ("--coco_path" if gone == "val2017" else "--coco_panoptic_path") in message


def test_missing_png_is_counted_before_training(tmp_path: Path) -> None:
    (write_panoptic(tmp_path) / "panoptic_val2017" / "30.png").unlink()
    with pytest.raises(UserError, match=r"1 segment map has no file in .*image id 30"):
        check(tmp_path)


def test_images_without_segments(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def empty_first(data: Data) -> None:
        data["annotations"][0]["segments_info"] = []

    def empty_all(data: Data) -> None:
        for row in data["annotations"]:
            row["segments_info"] = []

    with caplog.at_level(logging.WARNING):
        check(write_panoptic(tmp_path, empty_first), training=True)
    assert "1 image has no segments" in caplog.text and "image id 10" in caplog.text
    with pytest.raises(UserError, match="has no segments; training needs at least one object"):
        check(write_panoptic(tmp_path, empty_all), training=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no picture", ["cannot be read", "30.png"]),
        (png_that_claims(60_000, 60_000), ["30.png is too large", "3600000000 pixels"]),
        (png_that_claims(WIDTH, HEIGHT), ["30.png cannot be read"]),
        (saved(Image.new("I;16", (WIDTH, HEIGHT)), "PNG"), ["30.png cannot be read: mode I;16"]),
        (encode_id_map(id_map_of(30)[1:]), [f"{HEIGHT - 1} x {WIDTH}", f"{HEIGHT} x {WIDTH}"]),
        (encode_id_map(id_map_of(30) + 7), ["segments_info lacks: 7, 30008"]),
        (
            encode_id_map(np.where(np.indices((HEIGHT, WIDTH)).any(0), id_map_of(30), 9)),
            ["has segment ids that segments_info lacks: 9"],
        ),
        (encode_id_map(id_map_of(30).clip(30003)), ["lacks segment ids", "30001, 30002"]),
    ],
)
def test_png_that_does_not_belong_to_its_json(
    tmp_path: Path, content: bytes, words: list[str]
) -> None:
    (write_panoptic(tmp_path) / "panoptic_val2017" / "30.png").write_bytes(content)
    with pytest.raises(UserError) as error:
        read_all(tmp_path)
    message = one_line(error)
    assert "image id 30" in message and all(word in message for word in words), message


def test_image_of_another_size(tmp_path: Path) -> None:
    write_panoptic(tmp_path)
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(tmp_path / "val2017" / "10.png")
    with pytest.raises(UserError, match=rf"image id 10: .*10.png is {HEIGHT} x {WIDTH + 1} pixels"):
        read_all(tmp_path)


def test_things_by_file_or_else_by_the_rule_of_coco() -> None:
    categories = [{"id": 90}, {"id": 91}, {"id": 92, "isthing": 1}, {"id": 3, "isthing": 0}]
    assert thing_flags(categories) == {90: True, 91: False, 92: True, 3: False}


def test_more_masks_than_memory(tmp_path: Path) -> None:
    def claim(data: Data) -> None:
        data["images"][0].update(width=13_000, height=13_000)
        row = data["annotations"][1]
        assert row["image_id"] == data["images"][0]["id"]
        row["segments_info"] = [{"id": k + 1, "category_id": 1} for k in range(26)]

    with pytest.raises(UserError, match=r"pixels in total; .*: image id 30"):
        check(write_panoptic(tmp_path, claim))


def test_files_out_of_their_folders_are_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def move(data: Data) -> None:
        data["images"][0]["file_name"] = "../val2017/30.png"
        data["images"][1]["file_name"] = "../panoptic_val2017/10.png"
        data["annotations"][0]["file_name"] = str(tmp_path / "val2017" / "10.png")

    with caplog.at_level(logging.WARNING):
        check(write_panoptic(tmp_path, move))
    segment_maps, images = (record.getMessage() for record in caplog.records)
    assert "1 segment map has a file_name that points outside" in segment_maps
    assert "1 image has a file_name that points outside" in images


def test_file_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(json.dumps([1]))
    with pytest.raises(UserError, match="it is a list, but must be an object"):
        load_panoptic(tmp_path / "bad.json")
