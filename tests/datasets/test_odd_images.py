"""Every odd image file trains or is named, in the dataset and in the checker."""

import contextlib
import io
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.coco import CocoDetection, make_coco_transforms
from datasets.loading.images import read_image
from tests.datasets.check_cases import findings_of, row
from tests.datasets.odd_images import READABLE, REFUSED
from util.errors import UserError


def annotations_of(name: str) -> dict:
    return {
        "images": [{"id": 7, "file_name": name}],
        "annotations": [row(1, 7, [0, 0, 5000, 5000])],
        "categories": [{"id": 1, "name": "cat"}],
    }


def dataset_of(tmp_path: Path, name: str, image_set: str) -> CocoDetection:
    (tmp_path / "a.json").write_text(json.dumps(annotations_of(name)))
    transforms = make_coco_transforms(image_set, scales=[64], max_size=100)
    with contextlib.redirect_stdout(io.StringIO()):
        return CocoDetection(tmp_path / "train", tmp_path / "a.json", transforms, False)


@pytest.fixture
def write(tmp_path):
    """Write a file into the image folder."""
    (tmp_path / "train").mkdir()
    return lambda name, content: (tmp_path / "train" / name).write_bytes(content)


@pytest.mark.parametrize("image_set", ["train", "val"])
@pytest.mark.parametrize("name", READABLE)
def test_it_trains(tmp_path, write, name, image_set):
    write(name, READABLE[name]())
    torch.manual_seed(0)
    image, target = dataset_of(tmp_path, name, image_set)[0]
    assert image.shape[0] == 3
    assert image.isfinite().all()
    assert len(target["boxes"]) == 1
    assert image.float().std() > 0 or name in ("one_pixel.png", "lab.tif")


@pytest.mark.parametrize("name", [name for name in READABLE if "deep" in name or "float" in name])
def test_deep_grey_is_not_clipped_to_white(tmp_path, write, name):
    write(name, READABLE[name]())
    levels = np.bincount(np.asarray(read_image(tmp_path / "train" / name))[..., 0].ravel())
    assert len(levels) == 256
    assert levels[255] < 10


@pytest.mark.parametrize("name", READABLE)
def test_the_checker_finds_nothing_but_rotation(tmp_path, write, name):
    write(name, READABLE[name]())
    found = findings_of(tmp_path, annotations_of(name))
    allowed = {"oversized_box", "box_beyond_edge", "whole_image_boxes", "exif_ambiguous"}
    assert found.keys() <= allowed
    assert ("exif_ambiguous" in found) == ("turned" in name)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_named(tmp_path, write, name):
    make, says = REFUSED[name]
    write(name, make())
    dataset = dataset_of(tmp_path, name, "train")
    tracemalloc.start()
    with pytest.raises(UserError) as caught:
        dataset[0]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"image id 7: image file {tmp_path / 'train' / name} ")
    assert says in message
    assert "\n" not in message
    assert peak < 50e6


@pytest.mark.parametrize("name", REFUSED)
def test_the_checker_names_it(tmp_path, write, name):
    make, says = REFUSED[name]
    write(name, make())
    found = findings_of(tmp_path, annotations_of(name))
    kind = "decompression_bomb" if "is too large" in says else "unreadable_image"
    (place,) = found[kind].examples
    assert (place.image_id, place.file_name) == (7, name)
    assert says in place.detail


def test_every_mode_that_pillow_writes_is_among_them():
    modes = {Image.open(io.BytesIO(make())).mode for make in READABLE.values()}
    assert modes >= {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I", "I;16", "F"}
