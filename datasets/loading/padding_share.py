"""Share of padded pixels in batches: measured in training, and estimated beforehand."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from datasets.loading.byte_images import ByteImages
from datasets.loading.geometry import scaled_size
from util.errors import UserError
from util.nested_tensor import NestedTensor

_BATCHES_ESTIMATED = 2000


def aspect_ratios(dataset: Any) -> np.ndarray:
    """Width / height of each image, (N,) float64, from the annotation file.

    Args:
        dataset: its attribute ``sizes_wh`` has width and height of each image, (N, 2).

    Raises:
        UserError: if sizes are missing; ``--group_aspect`` needs them.
    """
    sizes_wh = getattr(dataset, "sizes_wh", None)
    if sizes_wh is None:
        raise UserError(
            f"--group_aspect: the {type(dataset).__name__} has no sizes of images (attribute "
            "sizes_wh); omit the flag"
        )
    missing = np.flatnonzero((sizes_wh <= 0).any(axis=1))
    if len(missing):
        raise UserError(
            f"--group_aspect: {dataset.ann_file} lacks width and height of image id "
            f"{dataset.ids[missing[0]]} ({len(missing)} of {len(sizes_wh)} images in all); add "
            "them, or omit the flag"
        )
    ratios: np.ndarray = sizes_wh[:, 0] / sizes_wh[:, 1]
    return ratios


class PaddingCounter:
    """Counts the padded pixels of batches.

    Attributes:
        padded: number of padded pixels.
        total: number of all pixels.
    """

    def __init__(self) -> None:
        self.padded, self.total = 0, 0

    @property
    def share(self) -> float | None:
        """Share of padded pixels, in [0, 1); None without batches."""
        return self.padded / self.total if self.total else None

    def add(self, images: NestedTensor | ByteImages) -> None:
        """Count a batch."""
        if isinstance(images, ByteImages):
            self.add_sizes(images.sizes_hw)
        elif images.mask is not None:
            self.padded += int(images.mask.sum())
            self.total += images.mask.numel()

    def add_sizes(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Count a batch of images with these heights and widths in pixels."""
        sides = np.array(sizes)
        total = len(sides) * int(sides.max(axis=0).prod())
        self.padded += total - int(sides.prod(axis=1).sum())
        self.total += total


def estimated_share(
    sizes_wh: np.ndarray, batches: Iterable[list[int]], scales: Sequence[int], max_size: int
) -> float:
    """Share of padded pixels that batches will have, if no image is cropped.

    Args:
        sizes_wh: width and height of each image in pixels, (N, 2).
        batches: images of each batch; at most the first 2000 batches are used.
        scales: short sides that images are resized to, at random.
        max_size: limit of the long side in pixels.
    """
    rng, padding = np.random.default_rng(0), PaddingCounter()
    for images, _ in zip(batches, range(_BATCHES_ESTIMATED), strict=False):
        sides = rng.choice(scales, len(images)).tolist()
        wh = sizes_wh[images].tolist()
        sizes = [
            scaled_size((w, h), side, max_size) for (w, h), side in zip(wh, sides, strict=True)
        ]
        padding.add_sizes(sizes)
    return padding.share or 0.0
