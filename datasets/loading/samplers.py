"""Samplers that assign images to ranks."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from util.distributed.processes import get_rank, get_world_size


class EpochBatchSampler(Sampler[list[int]]):
    """Batches of an epoch in random order, seeded with (seed, epoch) and divided among the ranks.

    Every rank has the same number of full batches and of complete optimizer steps; leftover images
    are dropped. An epoch can be started at any batch.

    Args:
        num_images: number of images in the dataset.
        batch_size: number of images per batch and rank, until `start_at` changes it.
        seed: seed of the run.
        accum_steps: number of batches per optimizer step and rank.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int, accum_steps: int = 1) -> None:
        self._num_images = num_images
        self._batch_size = batch_size
        self._seed = seed
        self._accum_steps = accum_steps
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
        return self.num_batches - self._first_batch

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(_mix(self._seed, self._epoch))
        order = torch.randperm(self._num_images, generator=generator).tolist()
        # Interleave the ranks batch by batch: any world size visits the images in the same order.
        stride = self._batch_size * get_world_size()
        first = self._batch_size * get_rank()
        for batch in range(self._first_batch, self.num_batches):
            start = batch * stride + first
            yield order[start : start + self._batch_size]


class ShareSampler(Sampler[int]):
    """Splits a dataset over the ranks in order, without repeating images.

    The parts differ by at most one image, and may be empty.

    Args:
        num_images: number of images in the dataset.
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
