"""Which segmentations can be rasterised, and that nothing else gets there."""

import time

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from datasets.annotations.segmentations import (
    LONGEST_OUTLINE,
    MAX_MASK_PIXELS,
    encode_masks,
    encode_segmentation,
    has_endless_polygon,
    is_rle,
    run_lengths,
    usable_polygons,
)
from datasets.coco import convert_coco_poly_to_mask

TRIANGLE = [0, 0, 5, 0, 5.5, 5]


def runs_of(mask: np.ndarray) -> list[int]:
    """Lengths of runs out and in, column by column, counted one pixel after the other."""
    lengths, inside = [0], 0
    for pixel in mask.ravel(order="F").tolist():
        if pixel != inside:
            lengths.append(0)
            inside = pixel
        lengths[-1] += 1
    return lengths


@pytest.mark.parametrize("seed", range(20))
def test_compressed_runs_are_those_of_the_mask(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 200, 2).tolist()
    mask = np.zeros((height, width), dtype=np.uint8)
    if seed % 2:
        mask[:] = rng.random((height, width)) < rng.random()
    else:
        mask[rng.integers(height) :, rng.integers(width) :] = 1
    encoded = coco_mask.encode(np.asfortranarray(mask))
    assert run_lengths(encoded["counts"]).tolist() == runs_of(mask)
    for counts in (encoded["counts"], encoded["counts"].decode(), runs_of(mask)):
        assert is_rle({"counts": counts, "size": [height, width]})
        assert not is_rle({"counts": counts, "size": [height, width + 1]})


@pytest.mark.parametrize(
    "counts",
    [
        *("", "0", "00", "o", "0o", "ooooooo0", "0\xe9", "\ud800", "03 "),
        *([], [3], [-1, 5], [4.0], [True, 3], [2**70], ["4"], [[4]]),
        *(None, 4, {"a": 4}),
    ],
)
def test_runs_that_do_not_fill_a_mask_are_no_rle(counts):
    """pycocotools leaves such a mask with what was in memory before, or reads beyond the text."""
    assert not is_rle({"counts": counts, "size": [2, 2]})


@pytest.mark.parametrize(
    "size", [None, 4, [4], [2, 2, 1], [2.0, 2.0], ["2", "2"], [-2, -2], [4, True]]
)
def test_a_size_is_two_positive_integers(size):
    assert not is_rle({"counts": [4], "size": size})
    assert is_rle({"counts": [4], "size": [2, 2]})


@pytest.mark.parametrize("other", [None, [], "04", [[4]], {"counts": [4]}, {"size": [2, 2]}])
def test_other_things_are_no_rle(other):
    assert not is_rle(other)


def test_polygons_need_three_points_of_finite_numbers():
    bad = [[0, 0, 1, 1], [0, 0, 1, 1, 2, 2, 3], [0, 0, 1, 1, 2, float("nan")], ["a"] * 6, None]
    assert usable_polygons([*bad, TRIANGLE]) == [TRIANGLE]
    assert not has_endless_polygon([*bad, TRIANGLE])
    for nothing in (None, [], [[]], {"counts": []}, "text"):
        assert usable_polygons(nothing) == []
        assert not has_endless_polygon(nothing)


@pytest.mark.parametrize(
    "polygon",
    [
        [0, 0, 1e308, 0, 5, 5],  # a crash of pycocotools
        [0, 0, 1e9, 0, 5, 5],
        [10**300, 0, 5, 0, 5, 5],
        [-1e7, -1e7, -1e7 + 5, -1e7, -1e7, -1e7 + 5],
        [0, 0, 60_000, 60_000] * 100,
    ],
)
def test_endless_polygons_are_not_drawn(polygon):
    assert has_endless_polygon([TRIANGLE, polygon])
    assert usable_polygons([polygon, TRIANGLE]) == [TRIANGLE]


def test_an_outline_may_be_as_long_as_the_limit():
    side = LONGEST_OUTLINE // 4
    square = [0, 0, side, 0, side, side, 0, side]
    assert usable_polygons([square]) == [square]
    assert has_endless_polygon([[0, 0, side, 0, side, side + 1, 0, side + 1]])


def test_a_million_points_are_drawn():
    angles = np.linspace(0, 2 * np.pi, 10**6, endpoint=False)
    circle = np.stack([100 + 80 * np.cos(angles), 90 + 80 * np.sin(angles)], axis=1)
    started = time.perf_counter()
    (mask,) = convert_coco_poly_to_mask([[circle.ravel().tolist()]], 180, 200)
    assert time.perf_counter() - started < 20
    assert abs(int(mask.sum()) / (np.pi * 80**2) - 1) < 0.01


def test_masks_beyond_all_memory_are_refused_before_they_are_made():
    count = MAX_MASK_PIXELS // 10**9 + 1
    with pytest.raises(ValueError, match=rf"{count} masks of 50000 x 20000 pixels exceed"):
        convert_coco_poly_to_mask([[TRIANGLE]] * count, 50_000, 20_000)


@pytest.mark.parametrize("junk", [[0, 0, 3, 3], [], [1], None, "x", [0, 0, float("nan")] * 2])
def test_polygons_that_cannot_be_drawn_do_not_hinder_others(junk):
    """pycocotools would take four numbers for a box, and fail at the rest."""
    alone = encode_segmentation([TRIANGLE], 6, 8)
    assert encode_segmentation([junk, TRIANGLE], 6, 8) == alone
    assert encode_segmentation([TRIANGLE, junk], 6, 8) == alone


def test_invalid_segmentations_are_shortened_in_messages():
    with pytest.raises(ValueError, match=r"^segmentation \[\[\[\[\.\.\.\]\]\]\] is neither"):
        encode_segmentation([[[[[[1]]]]]], 6, 8)


def test_masks_survive_run_length_encoding():
    masks = np.random.default_rng(0).random((7, 9, 2)) > 0.5
    assert (coco_mask.decode(encode_masks(masks)) == masks).all()
