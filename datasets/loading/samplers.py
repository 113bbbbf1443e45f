"""Samplers that assign images to ranks."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from util.distributed.processes import get_rank, get_world_size

BLOCK = 16  # images of similar aspect ratio; batch sizes that divide it are grouped best
_SORTED_AT_ONCE = (64, 1024)  # limits of the number of images that are sorted together


class EpochBatchSampler(Sampler[list[int]]):
    """Batches of an epoch in random order, seeded with (seed, epoch) and divided among the ranks.

    Every rank has the same number of full batches and of complete optimizer steps; leftover images
    are dropped. An epoch can be started at any batch. The order of the images depends neither on
    the batch size nor on the number of ranks.

    Args:
        batch_size: number of images per batch and rank, until `start_at` changes it.
        accum_steps: number of batches per optimizer step and rank.
        aspect_ratios: width / height of each image, (num_images,), to batch similar images, see
            `group_by_aspect`; None: random batches.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int,
        accum_steps: int = 1,
        aspect_ratios: np.ndarray | None = None,
    ) -> None:
        self._num_images = num_images
        self._batch_size = batch_size
        self._seed = seed
        self._accum_steps = accum_steps
        self._aspect_ratios = aspect_ratios
        self._epoch = 0
        self._first_batch = 0

    @property
    def num_batches(self) -> int:
        """Number of batches per epoch on this rank."""
        images_per_step = self._batch_size * self._accum_steps * get_world_size()
        return self._num_images // images_per_step * self._accum_steps

    def start_at(self, epoch: int, batch: int = 0, batch_size: int | None = None) -> None:
        """Set the epoch, the number of its batches to skip, and optionally the batch size."""
        self._epoch, self._first_batch = epoch, batch
        self._batch_size = batch_size or self._batch_size

    def __len__(self) -> int:
        return max(0, self.num_batches - self._first_batch)  # 0: the data has shrunk on resume

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(_mix(self._seed, self._epoch))
        order = torch.randperm(self._num_images, generator=generator)
        if self._aspect_ratios is not None:
            order = group_by_aspect(order, self._aspect_ratios, generator)
        images = order.tolist()
        # Interleave the ranks batch by batch: any world size visits the images in the same order.
        stride = self._batch_size * get_world_size()
        first = self._batch_size * get_rank()
        for batch in range(self._first_batch, self.num_batches):
            start = batch * stride + first
            yield images[start : start + self._batch_size]


def group_by_aspect(order: Tensor, aspect_ratios: np.ndarray, generator: torch.Generator) -> Tensor:
    """Move images of similar aspect ratios next to each other.

    Parts of the random order are sorted by aspect ratio and cut into blocks of `BLOCK` images; then
    the blocks of the epoch are shuffled. A block has different images in each epoch. Images that do
    not fill a block are last, in random order, so different images are left out in each epoch.

    Args:
        order: random order of the images, (N,) int64.
        aspect_ratios: width / height of each image, (N,).
        generator: shuffles the blocks.

    Returns:
        the new order, (N,).
    """
    order, leftover = order[: len(order) // BLOCK * BLOCK], order[len(order) // BLOCK * BLOCK :]
    if not len(order):
        return leftover
    part = min(max(len(order) // 4, _SORTED_AT_ONCE[0]), _SORTED_AT_ONCE[1]) // BLOCK * BLOCK
    ratios = torch.from_numpy(aspect_ratios)[order]
    by_ratio = [
        images[of_part.argsort(stable=True)]
        for images, of_part in zip(order.split(part), ratios.split(part), strict=True)
    ]
    blocks = torch.cat(by_ratio).split(BLOCK)
    shuffled = [blocks[i] for i in torch.randperm(len(blocks), generator=generator).tolist()]
    return torch.cat([*shuffled, leftover])


class ShareSampler(Sampler[int]):
    """Splits a dataset over the ranks in order, without repeating images.

    The parts differ by at most one image, and may be empty.
    """

    def __init__(self, num_images: int) -> None:
        self._share = range(get_rank(), num_images, get_world_size())

    def __len__(self) -> int:
        return len(self._share)

    def __iter__(self) -> Iterator[int]:
        return iter(self._share)


def _mix(seed: int, epoch: int) -> int:
    """Combine both numbers into a seed; (0, 1) and (1, 0) give different seeds."""
    return (seed * 1_000_003 + epoch) % 2**63
