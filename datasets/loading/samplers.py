"""Which images a process sees, and in which order."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from util.distributed.processes import get_rank, get_world_size


class EpochBatchSampler(Sampler[list[int]]):
    """Batches of an epoch in an order drawn from (seed, epoch), shared out among the processes.

    Every process has the same number of batches, all of full size, that make up whole steps: what
    is left over at the end of an epoch waits for another. An epoch can be entered in its middle.

    Args:
        num_images: of the data set.
        batch_size: images of a batch of one process.
        seed: of the run.
        accum_steps: batches of a step in each process.
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
        """Batches of a whole epoch in this process."""
        images_a_step = self._batch_size * self._accum_steps * get_world_size()
        return self._num_images // images_a_step * self._accum_steps

    def start_at(self, epoch: int, batch: int = 0) -> None:
        """Choose the epoch, and the number of its batches that are done already."""
        self._epoch, self._first_batch = epoch, batch

    def __len__(self) -> int:
        return self.num_batches - self._first_batch

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(_mix(self._seed, self._epoch))
        order = torch.randperm(self._num_images, generator=generator).tolist()
        # The processes take turns, so that together they see the order of a single one.
        stride = self._batch_size * get_world_size()
        first = self._batch_size * get_rank()
        for batch in range(self._first_batch, self.num_batches):
            start = batch * stride + first
            yield order[start : start + self._batch_size]


class ShareSampler(Sampler[int]):
    """The images of a data set in order, each in one process alone.

    Nothing is repeated to make the shares equal: they differ by an image, and may be empty.

    Args:
        num_images: of the data set.
    """

    def __init__(self, num_images: int) -> None:
        self._share = range(get_rank(), num_images, get_world_size())

    def __len__(self) -> int:
        return len(self._share)

    def __iter__(self) -> Iterator[int]:
        return iter(self._share)


def _mix(seed: int, epoch: int) -> int:
    """One number for both; the order of epoch 1 of seed 0 is not that of epoch 0 of seed 1."""
    return (seed * 1_000_003 + epoch) % 2**63
