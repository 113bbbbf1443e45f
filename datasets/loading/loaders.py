"""Data loaders for training and evaluation."""

import hashlib
from collections.abc import Iterator, Sized
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from datasets.loading.padding_share import PaddingCounter, aspect_ratios
from datasets.loading.samplers import EpochBatchSampler, ShareSampler
from datasets.loading.samples import ReportingLoader, Samples, collate_samples
from util.category_ids import CategoryIds
from util.cli.signals import ignore_stop_signals
from util.distributed.processes import get_world_size
from util.errors import UserError
from util.reproducibility.random_state import seeded
from util.text import count


class TrainLoader:
    """Training batches. They depend on seed and epoch only, not on the number of workers.

    Each sample is loaded with the global generators seeded by (seed, epoch, image) and restored
    afterwards, so loading does not affect the random state that dropout uses.

    Args:
        dataset: returns (image, target).
        batch_size: number of images per batch and rank, until `start_at` changes it.
        num_workers: number of data-loading processes.
        pin_memory: copy batches to page-locked memory, for copies to a GPU.
        seed: seed of the run, equal on all ranks.
        accum_steps: batches per optimizer step; the last incomplete step is dropped.
        skip_bad_images: maximum number of unreadable images that are replaced.
        bad_images: error messages of images replaced earlier in the run; new messages are appended.
        freeze_batch_size: batch size that `start_at` will set later; checked here.
        category_ids: category id of each row of the classification head, see `Samples`.
        group_aspect: put images of similar aspect ratio into the same batch, see
            `datasets.loading.samplers.group_by_aspect`.

    Attributes:
        batches: yields the image numbers of each batch of this rank.
        padding: padded pixels of the batches loaded since `start_at`, on this rank.

    Raises:
        UserError: if there are fewer images than one optimizer step needs.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        num_workers: int,
        pin_memory: bool,
        seed: int,
        *,
        accum_steps: int = 1,
        skip_bad_images: int = 0,
        bad_images: list[str] | None = None,
        freeze_batch_size: int | None = None,
        category_ids: CategoryIds | None = None,
        group_aspect: bool = False,
    ) -> None:
        self._samples = SeededDataset(Samples(dataset, skip_bad_images, category_ids), seed)
        ratios = aspect_ratios(dataset) if group_aspect else None
        for flag, size in (("freeze_batch_size", freeze_batch_size), ("batch_size", batch_size)):
            if size is not None:
                self.batches = EpochBatchSampler(
                    len(self._samples), size, seed, accum_steps, ratios
                )
                if self.batches.num_batches == 0:
                    raise UserError(_explain_no_step(len(self._samples), flag, size, accum_steps))
        loader = _loader(self._samples, num_workers, pin_memory, batch_sampler=self.batches)
        known = [] if bad_images is None else bad_images
        self._loader = ReportingLoader(loader, dataset, skip_bad_images, known)
        self.padding = PaddingCounter()

    def start_at(self, epoch: int, batch: int = 0, batch_size: int | None = None) -> None:
        """Set the epoch, the number of its batches to skip, and optionally the batch size."""
        self._samples.set_epoch(epoch)
        self.padding = PaddingCounter()
        self.batches.start_at(epoch, batch, batch_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for images, targets in self._loader:
            self.padding.add(images)
            yield images, targets


def _explain_no_step(num_images: int, flag: str, batch_size: int, accum_steps: int) -> str:
    """Error message for too few images, with the largest possible batch size."""
    num_processes = get_world_size()
    largest = num_images // (num_processes * accum_steps)
    flags, hint = f"--{flag} {batch_size}", f"use --{flag} {largest} or less"
    if accum_steps > 1:
        flags += f" times --accum_steps {accum_steps}"
        hint += f", or fewer --accum_steps than {accum_steps}"
    if num_processes > 1:
        flags += f" times {num_processes} processes"
    if largest == 0:
        hint = "start fewer processes" if accum_steps == 1 else "lower --accum_steps"
    data = count(num_images, "training image")
    return f"{flags}: the data has only {data}, fewer than one optimizer step needs; {hint}"


def build_val_loader(
    dataset: Dataset,
    batch_size: int,
    num_workers: int,
    pin_memory: bool,
    *,
    skip_bad_images: int = 0,
    bad_images: list[str] | None = None,
    category_ids: CategoryIds | None = None,
) -> ReportingLoader:
    """Batches in dataset order; the images are split over the ranks.

    For the arguments see `TrainLoader`. Ranks may have different numbers of batches, even none.
    """
    samples = Samples(dataset, skip_bad_images, category_ids)
    sampler = ShareSampler(len(samples))
    loader = _loader(samples, num_workers, pin_memory, batch_size=batch_size, sampler=sampler)
    known = [] if bad_images is None else bad_images
    return ReportingLoader(loader, dataset, skip_bad_images, known)


def _loader(dataset: Dataset, num_workers: int, pin_memory: bool, **batching: Any) -> DataLoader:
    return DataLoader(
        dataset,
        collate_fn=collate_samples,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),
        worker_init_fn=ignore_stop_signals,
        **batching,
    )


class SeededDataset(Dataset):
    """A dataset whose items are computed with generators seeded with (seed, epoch, index).

    Otherwise the augmentation would depend on the number of workers and on where a run was resumed.

    Args:
        dataset: map-style dataset; its items may use the global generators.

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
