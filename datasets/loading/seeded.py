"""Random augmentation that depends only on seed, epoch and image."""

import hashlib
from collections.abc import Sized
from typing import Any, cast

import torch
from torch.utils.data import Dataset

from util.reproducibility.random_state import seeded


class SeededDataset(Dataset):
    """A dataset whose items are computed with generators seeded with (seed, epoch, index).

    Otherwise the augmentation would depend on the number of workers and on where a run was resumed.

    Args:
        dataset: map-style dataset; its items may use the global generators.
        seed: seed of the run.

    Attributes:
        dataset: the wrapped dataset.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self._seed = seed
        # In shared memory, so that persistent workers see a new epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next items are seeded with."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitem__(self, index: int) -> Any:
        with seeded(_seed_of(self._seed, int(self._epoch), index)):
            return self.dataset[index]


def _seed_of(*numbers: int) -> int:
    """Hash the numbers to a 32-bit seed, equal on all platforms."""
    digest = hashlib.blake2s(repr(numbers).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")
