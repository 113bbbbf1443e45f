"""Batches of a data set, for training and for evaluation."""

from collections.abc import Sized
from typing import Any, cast

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from util.distributed import is_dist_avail_and_initialized
from util.errors import UserError
from util.nested_tensor import collate_fn


def build_train_loader(
    dataset: Dataset, batch_size: int, num_workers: int, pin_memory: bool
) -> tuple[RandomSampler | DistributedSampler, DataLoader]:
    """Batches in random order; an incomplete last one is left out.

    Args:
        dataset: gives (image, target).
        batch_size: images of a batch in this process.
        num_workers: processes that load data.
        pin_memory: put batches into page-locked memory, for copies to a GPU.

    Returns:
        the sampler, which with several processes wants to know each epoch, and the loader.

    Raises:
        UserError: there are fewer images than make a batch.
    """
    sampler: RandomSampler | DistributedSampler
    if is_dist_avail_and_initialized():
        sampler = DistributedSampler(dataset)
    else:
        sampler = RandomSampler(cast(Sized, dataset))
    if len(sampler) < batch_size:
        raise UserError(
            f"--batch_size {batch_size}: more than the {len(sampler)} training images of a process"
        )
    batches = BatchSampler(sampler, batch_size, drop_last=True)
    return sampler, _loader(dataset, num_workers, pin_memory, batch_sampler=batches)


def build_val_loader(
    dataset: Dataset, batch_size: int, num_workers: int, pin_memory: bool
) -> DataLoader:
    """Batches in order of the image ids; arguments as in `build_train_loader`."""
    sampler: Sampler = SequentialSampler(cast(Sized, dataset))
    if is_dist_avail_and_initialized():
        sampler = DistributedSampler(dataset, shuffle=False)
    return _loader(dataset, num_workers, pin_memory, batch_size=batch_size, sampler=sampler)


def _loader(dataset: Dataset, num_workers: int, pin_memory: bool, **batching: Any) -> DataLoader:
    return DataLoader(
        dataset,
        collate_fn=collate_fn,
        num_workers=num_workers,
        pin_memory=pin_memory,
        **batching,
    )
