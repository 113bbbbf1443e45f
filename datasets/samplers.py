"""The order in which training sees a data set: a function of seed and epoch alone."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from util.distributed import get_rank, get_world_size


class EpochBatchSampler(Sampler[list[int]]):
    """Batches of an epoch in an order drawn from (seed, epoch), shared out among the processes.

    Every process has the same number of batches, all of full size: what is left over at the end of
    an epoch waits for another. An epoch can be entered in its middle.

    Args:
        num_images: of the data set.
        batch_size: images of a batch of one process.
        seed: of the run.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int) -> None:
        self._num_images = num_images
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0
        self._first_batch = 0

    @property
    def num_batches(self) -> int:
        """Batches of a whole epoch in this process."""
        return self._num_images // (self._batch_size * get_world_size())

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


def _mix(seed: int, epoch: int) -> int:
    """One number for both; the order of epoch 1 of seed 0 is not that of epoch 0 of seed 1."""
    return (seed * 1_000_003 + epoch) % 2**63
