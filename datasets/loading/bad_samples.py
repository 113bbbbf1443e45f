"""Replace unreadable images, up to ``--skip_bad_images``, and report them in the main process.

Data workers return their reports with the samples; `ReportingLoader` logs each report once.
"""

import logging
from collections.abc import Iterator, Sized
from typing import Any, NamedTuple, cast

from torch.utils.data import DataLoader, Dataset

from util.errors import UserError
from util.nested_tensor import collate_fn

logger = logging.getLogger(__name__)


class _Sample(NamedTuple):
    """The first readable sample from an index on.

    Attributes:
        image: image from the data set.
        target: target from the data set.
        complaints: error messages of unreadable images before this sample.
        note: remark of the data set about reading this sample, or None.
    """

    image: Any
    target: Any
    complaints: list[str]
    note: str | None = None


class Batch(NamedTuple):
    """A collated batch.

    Attributes:
        images: images from `util.nested_tensor.collate_fn`.
        targets: targets from `util.nested_tensor.collate_fn`.
        complaints: error messages of all samples.
        note: first note of the samples, or None.
    """

    images: Any
    targets: Any
    complaints: list[str]
    note: str | None


class ReplacingDataset(Dataset):
    """Replaces unreadable samples by the next readable sample.

    Args:
        dataset: a map-style data set that raises a UserError for unreadable items. An optional
            method ``take_note`` returns a remark about the last item read, or None.
        allowed: maximum number of replacements; 0: the error is raised.
    """

    def __init__(self, dataset: Dataset, allowed: int) -> None:
        self.dataset = dataset
        self._allowed = allowed

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitem__(self, index: int) -> _Sample:
        complaints: list[str] = []
        for candidate in range(index, index + len(self)):
            try:
                image, target = self.dataset[candidate % len(self)]
                return _Sample(image, target, complaints, _note_of(self.dataset))
            except UserError as error:
                complaints.append(error.one_line())
                refuse_too_many(complaints, self._allowed)
        raise UserError("none of the images of the data set can be read")


def _note_of(dataset: Any) -> str | None:
    """Return the data set's remark about the last item read, if any."""
    return dataset.take_note() if hasattr(dataset, "take_note") else None


def refuse_too_many(complaints: list[str], allowed: int) -> None:
    """Raise a UserError with the last complaint if there are more than allowed."""
    if len(complaints) <= allowed:
        return
    if allowed == 0:
        raise UserError(f"{complaints[-1]} (or skip unreadable images with --skip_bad_images N)")
    raise UserError(
        f"{complaints[-1]}; more images than --skip_bad_images {allowed} cannot be read"
    )


def collate_samples(samples: list[_Sample]) -> Batch:
    """Collate samples with `util.nested_tensor.collate_fn`, and combine their reports."""
    images, targets = collate_fn([(sample.image, sample.target) for sample in samples])
    complaints = [one for sample in samples for one in sample.complaints]
    note = next((sample.note for sample in samples if sample.note), None)
    return Batch(images, targets, complaints, note)


class ReportingLoader:
    """Yields (images, targets); logs each replaced image once, and prints the first note.

    Args:
        loader: loads a `ReplacingDataset` with `collate_samples`.
        dataset: the original data set, available as attribute ``dataset``.
        allowed: maximum number of replaced images per run.
        known: complaints logged earlier in the run; new complaints are appended.
    """

    def __init__(
        self, loader: DataLoader, dataset: Dataset, allowed: int, known: list[str]
    ) -> None:
        self.dataset = dataset
        self._loader = loader
        self._allowed = allowed
        self._known = known
        self._has_noted = False

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for images, targets, complaints, note in self._loader:
            for complaint in complaints:
                self._report(complaint)
            if note is not None and not self._has_noted:
                self._has_noted = True
                print(note)
            yield images, targets

    def _report(self, complaint: str) -> None:
        """Log a new complaint.

        Raises:
            UserError: there are more complaints than allowed.
        """
        if complaint in self._known:
            return
        self._known.append(complaint)
        refuse_too_many(self._known, self._allowed)
        logger.warning(
            "%s; replaced by another image, number %d of --skip_bad_images %d",
            complaint,
            len(self._known),
            self._allowed,
        )
