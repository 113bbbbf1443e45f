"""Images are read in the orientation of their annotations, and of the annotated size."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from datasets.coco import CocoDetection, make_coco_transforms
from datasets.coco_panoptic import CocoPanoptic
from datasets.loading.images import read_image, read_listed_image, read_upright
from datasets.loading.listed_images import read_row_image
from datasets.loading.loaders import TrainLoader, build_val_loader
from tests.datasets.check_cases import row
from tests.datasets.panoptic_cases import HEIGHT, WIDTH, id_map_of, write_panoptic
from tests.datasets.photo_cases import (
    ORIENTATIONS,
    PATCH_XYWH,
    QUARTER_TURNED,
    UPRIGHT_WH,
    red_share,
    upright_image,
    write_photo,
)
from util.errors import UserError

to_tensors = partial(make_coco_transforms, scales=[32], max_size=64)


def photos(folder, orientations: Sequence[int], size_wh: Any = UPRIGHT_WH, **options) -> Any:
    """A dataset of photos with a box around the patch of the upright image.

    Args:
        folder: for images and annotations.
        orientations: one photo each.
        size_wh: in the annotation file, or None.
        options: of `CocoDetection`.
    """
    images, annotations = [], []
    for number, orientation in enumerate(orientations):
        write_photo(folder / "images" / f"{number}.jpg", orientation)
        size = {} if size_wh is None else {"width": size_wh[0], "height": size_wh[1]}
        images.append({"id": number, "file_name": f"{number}.jpg", **size})
        annotations.append(row(number, number, PATCH_XYWH))
    data = {"images": images, "annotations": annotations}
    data["categories"] = [{"id": 1, "name": "patch"}]
    (folder / "photos.json").write_text(json.dumps(data))
    options = {"transforms": None, "return_masks": False} | options
    return CocoDetection(folder / "images", folder / "photos.json", **options)


@pytest.mark.parametrize("orientation", QUARTER_TURNED)
def test_the_box_lands_on_the_object_of_a_photo_stored_sideways(tmp_path, orientation):
    image, target = photos(tmp_path, [orientation])[0]
    assert image.size == UPRIGHT_WH
    assert target["orig_size"].tolist() == [UPRIGHT_WH[1], UPRIGHT_WH[0]]
    assert red_share(image, target["boxes"][0].tolist()) > 0.95
    assert np.abs(np.asarray(image).astype(int) - np.asarray(upright_image())).mean() < 4


@pytest.mark.parametrize("size_wh", [UPRIGHT_WH[::-1], None])
@pytest.mark.parametrize("orientation", QUARTER_TURNED)
def test_annotations_of_stored_pixels_get_stored_pixels(tmp_path, orientation, size_wh):
    dataset = photos(tmp_path, [orientation], size_wh)
    image, _ = dataset[0]
    assert image.tobytes() == read_image(tmp_path / "images" / "0.jpg").tobytes()
    assert image.size == UPRIGHT_WH[::-1]
    assert (dataset.pop_notice() is None) == (size_wh is not None)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_an_orientation_that_keeps_the_size_changes_nothing(tmp_path, orientation):
    image, _ = photos(tmp_path, [orientation])[0]
    assert image.tobytes() == read_image(tmp_path / "images" / "0.jpg").tobytes()


def test_a_square_photo_is_not_rotated(tmp_path):
    write_photo(tmp_path / "square.jpg", 6, upright_image((32, 32)))
    image, _ = read_listed_image(tmp_path / "square.jpg", (32, 32))
    assert image.tobytes() == read_image(tmp_path / "square.jpg").tobytes()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_photos_without_annotations_are_upright(tmp_path, orientation, suffix):
    path = tmp_path / f"photo.{suffix}"
    write_photo(path, orientation)
    image = read_upright(path)
    with Image.open(path) as opened:
        assert image.tobytes() == ImageOps.exif_transpose(opened).convert("RGB").tobytes()
    assert image.size == UPRIGHT_WH
    x, y, width, height = PATCH_XYWH
    assert red_share(image, [x, y, x + width, y + height]) > 0.9


@pytest.mark.parametrize("orientation", QUARTER_TURNED)
def test_a_tiff_that_pillow_turns_itself_is_turned_once(tmp_path, orientation):
    write_photo(tmp_path / "photo.tif", orientation)
    image, _ = read_listed_image(tmp_path / "photo.tif", UPRIGHT_WH)
    assert image.tobytes() == upright_image().tobytes()


def test_an_image_of_another_size_is_named(tmp_path):
    dataset = photos(tmp_path, [1], (48, 33))
    with pytest.raises(UserError) as caught:
        dataset[0]
    message = str(caught.value)
    assert message.startswith(f"image id 0: image file {tmp_path / 'images' / '0.jpg'} is 32 x 48 ")
    assert f"but 33 x 48 in {tmp_path / 'photos.json'};" in message and "--skip_checks" in message


@pytest.mark.parametrize("orientation", [1, 3])
def test_exchanged_sides_without_a_quarter_turn_are_an_error(tmp_path, orientation):
    with pytest.raises(UserError, match="is 32 x 48 pixels"):
        photos(tmp_path, [orientation], UPRIGHT_WH[::-1])[0]


def test_a_quarter_turn_that_does_not_explain_the_size_is_an_error(tmp_path):
    with pytest.raises(UserError, match="is 48 x 32 pixels"):
        photos(tmp_path, [6], (49, 32))[0]


def test_skipped_checks_take_the_image_as_it_is_stored(tmp_path):
    image, target = photos(tmp_path, [1], (48, 33), skip_checks=True)[0]
    assert image.size == UPRIGHT_WH and target["size"].tolist() == [32, 48]


def test_images_of_another_size_can_be_replaced(tmp_path):
    photos(tmp_path, [1, 1, 1])
    data = json.loads((tmp_path / "photos.json").read_text())
    data["images"][1]["width"] = 50
    (tmp_path / "photos.json").write_text(json.dumps(data))
    dataset = CocoDetection(tmp_path / "images", tmp_path / "photos.json", to_tensors("val"), False)
    known: list[str] = []
    loader = build_val_loader(dataset, 1, 0, False, skip_bad_images=1, bad_images=known)
    assert [int(targets[0]["image_id"]) for _, targets in loader] == [0, 2, 2]
    assert len(known) == 1 and known[0].startswith("image id 1: ")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_turned_photos_are_reported_in_one_line_a_loader(tmp_path, num_workers, capsys):
    dataset = photos(tmp_path, [1, 1, 6, 8, 6, 1], transforms=to_tensors("val"))
    capsys.readouterr()
    loader = TrainLoader(dataset, 2, num_workers, False, seed=0)
    for epoch in range(2):
        loader.start_at(epoch)
        assert sum(len(targets) for _, targets in loader) == 6
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("EXIF orientation applied: image id ")
    assert str(tmp_path / "photos.json") in line
    for _ in build_val_loader(dataset, 2, num_workers, False):
        pass
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("EXIF orientation applied: image id 2: image file ")


@pytest.mark.parametrize(
    ("orientations", "size_wh"), [([1, 1], UPRIGHT_WH), ([6, 8], UPRIGHT_WH[::-1])]
)
def test_nothing_is_reported_where_sizes_agree(tmp_path, capsys, orientations, size_wh):
    dataset = photos(tmp_path, orientations, size_wh, transforms=to_tensors("val"))
    capsys.readouterr()
    assert len(list(build_val_loader(dataset, 2, 0, False))) == 1
    assert capsys.readouterr().out == ""


def test_an_orientation_that_sizes_do_not_explain_is_reported(tmp_path, capsys):
    """In addition to rotated images: boxes on upright images would be beside their objects."""
    dataset = photos(tmp_path, [6, 1, 3, 2, 6], transforms=to_tensors("val"))
    capsys.readouterr()
    assert len(list(build_val_loader(dataset, 1, 0, False))) == 5
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("EXIF orientation applied: image id 0: ")
    assert second.startswith("EXIF orientation not applied: image id 2: ")
    assert "save the images upright" in second


def test_panoptic_photos_are_turned_to_their_segment_maps(tmp_path):
    write_panoptic(tmp_path)
    pixels = (id_map_of(10) % 256).astype(np.uint8)
    upright = Image.fromarray(np.stack([pixels] * 3, axis=-1))
    write_photo(tmp_path / "val2017" / "10.png", 8, upright)
    folders = tmp_path / "val2017", tmp_path / "panoptic_val2017"
    dataset = CocoPanoptic(*folders, tmp_path / "annotations" / "panoptic_val2017.json")
    image, target = dataset[0]
    assert image.size == (WIDTH, HEIGHT)
    assert (dataset.pop_notice() or "").startswith("EXIF orientation applied: ")
    values = torch.from_numpy(np.array(image)[..., 0])
    for mask in target["masks"]:
        assert len(values[mask.bool()].unique()) == 1


def test_drawing_turns_images_and_takes_any_size(tmp_path):
    write_photo(tmp_path / "a.jpg", 6)
    listed = {"id": 1, "file_name": "a.jpg", "width": UPRIGHT_WH[0], "height": UPRIGHT_WH[1]}
    assert read_row_image(tmp_path, listed).size == UPRIGHT_WH
    assert read_row_image(tmp_path, listed | {"width": 999}).size == UPRIGHT_WH[::-1]
