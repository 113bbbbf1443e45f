"""Figures of attention maps."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from prediction.attention import AttentionMaps
from prediction.detector import Detector
from prediction.outputs.attention_pictures import (
    AttentionPictures,
    decoder_picture,
    encoder_picture,
    maps_of,
    overlay,
)
from tests.export.small_files import NARROW_BOXES, source
from tests.prediction.outputs.output_cases import boxes_of, item

PHOTO = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8).repeat(2, axis=1)
)


@pytest.fixture(scope="module")
def detector():
    return Detector(dataclasses.replace(source(NARROW_BOXES), short_side=96, max_size=300), "cpu")


def test_the_overlay_is_brightest_where_the_attention_is():
    weights = np.zeros((3, 4))
    weights[2, 1] = 0.2
    picture = np.asarray(overlay(Image.new("RGB", (80, 60), "white"), weights)).astype(int)
    red_over_blue = picture[..., 0] - picture[..., 2]
    row, column = np.unravel_index(red_over_blue.argmax(), red_over_blue.shape)
    assert 40 <= row < 60 and 20 <= column < 40


class KnownMaps(AttentionMaps):
    """Query and position k of a 2 x 3 grid attend only to position k; in head 1 to position 0."""

    def __init__(self):
        self._grid_hw = (2, 3)
        self.encoder = np.eye(6, dtype=np.float32).reshape(2, 3, 2, 3)
        self.decoder_heads = np.zeros((2, 6, 2, 3), dtype=np.float32)
        self.decoder_heads[0] = np.eye(6).reshape(6, 2, 3)
        self.decoder_heads[1, :, 0, 0] = 1


def hottest(tile):
    """Position of a 2 x 3 grid of a tile with the most yellow."""
    pixels = np.asarray(tile.convert("RGB")).astype(int)
    yellow = (pixels[..., 0] > 230) & (pixels[..., 1] > 200) & (pixels[..., 2] < 120)
    ys, xs = yellow.nonzero()
    return int(2 * np.median(ys) / tile.height), int(3 * np.median(xs) / tile.width)


def test_the_encoder_is_shown_at_its_points():
    image = Image.new("RGB", (300, 200), "black")
    picture = encoder_picture(image, [(250, 20), (10, 150)], KnownMaps())
    # Three tiles of 400 x 267 pixels below their captions, with margins of 8 pixels.
    tiles = [picture.crop((8 + 408 * k, 30, 408 + 408 * k, 297)) for k in range(3)]
    assert [hottest(tile) for tile in tiles[1:]] == [(0, 2), (1, 0)]


def test_the_decoder_is_shown_for_each_detection_and_head():
    image = Image.new("RGB", (300, 200), "black")
    prediction = boxes_of((200, 100, 290, 190), (0, 100, 90, 190))
    prediction.queries[:] = [5, 3]
    picture = decoder_picture(image, prediction, KnownMaps())
    assert picture.width == 4 * 248 + 8  # box, mean and two heads

    def tile(row, column):
        left, top = 8 + 248 * column, 30 + row * 190
        return picture.crop((left, top, left + 240, top + 160))

    assert [hottest(tile(0, 2)), hottest(tile(0, 3))] == [(1, 2), (0, 0)]
    assert [hottest(tile(1, 2)), hottest(tile(1, 3))] == [(1, 0), (0, 0)]


def test_maps_of_an_image_without_traces_in_the_model(detector):
    maps = maps_of(detector, PHOTO)
    assert maps.decoder_heads.shape[:2] == (4, 5)
    assert not any(module._forward_hooks for module in detector.loaded.model.modules())


def test_two_figures_per_image(detector, tmp_path):
    output = AttentionPictures(tmp_path, detector, [])
    output.add(item("sub/a.jpg"), PHOTO, detector.predict(PHOTO, threshold=0))
    output.add(item("empty.jpg"), PHOTO, detector.predict(PHOTO, threshold=1))
    output.close()
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png"))
    assert files == ["attention/sub/a.jpg.decoder.png", "attention/sub/a.jpg.encoder.png"]


def test_points_need_no_detection(detector, tmp_path):
    output = AttentionPictures(tmp_path, detector, [(0, 0), (179, 59)])
    output.add(item(), PHOTO, detector.predict(PHOTO, threshold=1))
    assert [path.name for path in (tmp_path / "attention").iterdir()] == ["a.jpg.encoder.png"]


def test_a_point_outside_is_reported(detector, tmp_path, capsys):
    output = AttentionPictures(tmp_path, detector, [(0, 0), (180, 10)])
    output.add(item(), PHOTO, detector.predict(PHOTO, threshold=0))
    message = (
        "photos/a.jpg: no attention: --points 180,10 is outside, the image has 180 x 60 pixels"
    )
    assert message in capsys.readouterr().err
    assert not (tmp_path / "attention").exists()
