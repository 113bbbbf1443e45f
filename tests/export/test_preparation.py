"""Images as inputs of exported models."""

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.loading.byte_images import IMAGENET, Normalization
from export.preparation import Preparation, fitting_hw, image_paths
from util.errors import UserError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (60, 40 + 20 * number, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_images_are_spread_over_the_folder(folder):
    assert [path.name for path in image_paths(str(folder), 2)] == ["0.png", "2.png"]
    assert len(image_paths(str(folder), 100)) == 5


def test_folders_without_images(tmp_path):
    with pytest.raises(UserError, match="has no images"):
        image_paths(str(tmp_path), 1)
    with pytest.raises(UserError, match="is not a folder"):
        image_paths(str(tmp_path / "none"), 1)


def test_batches_have_the_size_of_the_image_or_a_fixed_one(folder):
    paths = image_paths(str(folder), 5)
    for images, padding_mask in Preparation(800, 1333).batches_of(paths[:1]):
        assert images.shape[2:] == padding_mask.shape[1:] == (1200, 800)
        assert not padding_mask.any()
    sizes = [(64, 42), (64, 64), (64, 85), (60, 100), (50, 100)]
    for (height, width), (images, padding_mask) in zip(
        sizes, Preparation(800, 1333, (64, 100)).batches_of(paths), strict=True
    ):
        assert images.shape == (1, 3, 64, 100)
        expected = torch.ones(64, 100, dtype=torch.bool)
        expected[:height, :width] = False
        assert torch.equal(padding_mask[0], expected)
        assert not images[0][:, expected].any() and images[0][:, ~expected].all()


@pytest.mark.parametrize("normalization", [IMAGENET, Normalization([0.5, 0, 1], [0.5, 1, 2])])
def test_images_of_the_fixed_size_are_only_normalized(folder, normalization):
    preparation = Preparation(800, 1333, (60, 120), normalization)
    ((images, _),) = preparation.batches_of([folder / "4.png"])
    pixels = np.asarray(Image.open(folder / "4.png")) / 255
    expected = (pixels - normalization.mean) / normalization.std
    np.testing.assert_allclose(images[0].permute(1, 2, 0), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("size_wh", "fixed_hw", "found"),
    [
        ((640, 480), (800, 1333), (800, 1066)),
        ((480, 640), (800, 1333), (800, 600)),
        ((5000, 1), (10, 100), (1, 100)),
        ((333, 333), (333, 333), (333, 333)),
    ],
)
def test_the_largest_size_that_fits(size_wh, fixed_hw, found):
    assert fitting_hw(size_wh, fixed_hw) == found
