"""Randomness of samples that depends on the seed of a run, the epoch and the image alone."""

import hashlib
from collections.abc import Sized
from typing import Any, cast

import torch
from torch.utils.data import Dataset

from util.random_state import seeded


class SeededDataset(Dataset):
    """A data set whose items draw from generators seeded for (seed, epoch, index).

    Without it the augmentation of an image depends on what its worker did before, and with that on
    the number of workers and on where a run was interrupted.

    Args:
        dataset: a map-style data set; its items may draw from the global generators.
        seed: of the run.

    Attributes:
        dataset: the same.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self._seed = seed
        # In shared memory, so that workers which live on see a new epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the items to come."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitem__(self, index: int) -> Any:
        with seeded(_seed_of(self._seed, int(self._epoch), index)):
            return self.dataset[index]


def _seed_of(*numbers: int) -> int:
    """32 bits that look random, and are the same everywhere for the same numbers."""
    digest = hashlib.blake2s(repr(numbers).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")
