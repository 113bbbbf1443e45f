"""Resizing with PyTorch against Pillow: the same pixels but for rounding."""

import numpy as np
import pytest
from PIL import Image

from datasets.loading.geometry import resize_image


def photo(width=64, height=48, mode="RGB"):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    noisy = (pixels + rng.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(noisy).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("size_wh", "largest_share"),
    [
        *(((107, 80), 0.01), ((64, 48), 0), ((65, 49), 0.01), ((40, 30), 0.02), ((13, 10), 0.01)),
        # One side grows, the other shrinks: the kernels begin with different sides.
        *(((65, 47), 0.4), ((64, 80), 0.4), ((1, 1), 0.4), ((300, 2), 0.4)),
    ],
)
def test_values_differ_by_rounding_only(size_wh, largest_share, mode):
    image = photo(mode=mode)
    before = image.tobytes()
    found, expected = (resize_image(image, size_wh, kernel) for kernel in ("torch", "pillow"))
    assert (found.mode, found.size) == (mode, size_wh)
    difference = np.abs(np.asarray(found, dtype=int) - np.asarray(expected, dtype=int))
    assert difference.max() <= 1 and (difference > 0).mean() <= largest_share
    assert image.tobytes() == before


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "F"])
def test_other_modes_are_resized_by_pillow(mode):
    image = photo(mode=mode)
    found, expected = (resize_image(image, (30, 20), kernel) for kernel in ("torch", "pillow"))
    assert found.mode == mode and found.tobytes() == expected.tobytes()


def test_an_unknown_kernel_is_an_error():
    with pytest.raises(ValueError, match="'opencv' is not one of pillow, torch"):
        resize_image(photo(), (3, 3), "opencv")
