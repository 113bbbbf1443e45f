"""Samplers that assign images to processes."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from util.distributed.processes import get_rank, get_world_size


class EpochBatchSampler(Sampler[list[int]]):
    """Batches of an epoch in an order drawn from (seed, epoch), divided among the processes.

    Every process has the same number of full batches and of whole optimizer steps; leftover images
    are dropped. An epoch can be started at any batch.

    Args:
        num_images: size of the data set.
        batch_size: images per batch and process, until `start_at` changes it.
        seed: seed of the run.
        accum_steps: batches per optimizer step and process.
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
        """Batches per epoch in this process."""
        images_a_step = self._batch_size * self._accum_steps * get_world_size()
        return self._num_images // images_a_step * self._accum_steps

    def start_at(self, epoch: int, batch: int = 0, batch_size: int | None = None) -> None:
        """Set the epoch, the number of its batches to skip, and optionally another batch size."""
        self._epoch, self._first_batch = epoch, batch
        self._batch_size = batch_size or self._batch_size

    def __len__(self) -> int:
        return self.num_batches - self._first_batch

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(_mix(self._seed, self._epoch))
        order = torch.randperm(self._num_images, generator=generator).tolist()
        # Processes take turns: together they follow the order of a single process.
        stride = self._batch_size * get_world_size()
        first = self._batch_size * get_rank()
        for batch in range(self._first_batch, self.num_batches):
            start = batch * stride + first
            yield order[start : start + self._batch_size]


class ShareSampler(Sampler[int]):
    """Divides a data set among processes in order, without repeating images.

    Shares differ by at most one image, and may be empty.

    Args:
        num_images: size of the data set.
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
