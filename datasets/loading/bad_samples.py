"""Reports on images in the order of batches: images that cannot be read, or are turned upright.

Data workers are processes of their own, so what they find travels with the samples, and the process
that trains prints it once. Images that cannot be read are tolerated up to ``--skip_bad_images``.
"""

import logging
from collections.abc import Iterator, Sized
from typing import Any, NamedTuple, cast

from torch.utils.data import DataLoader, Dataset

from util.errors import UserError
from util.nested_tensor import collate_fn

logger = logging.getLogger(__name__)


class _Sample(NamedTuple):
    """The sample of an index, or of a later index where images cannot be read.

    Attributes:
        image: of the data set.
        target: likewise.
        complaints: why the images before it cannot be read.
        note: sentence of the data set about how it was read, if there is any.
    """

    image: Any
    target: Any
    complaints: list[str]
    note: str | None = None


class Batch(NamedTuple):
    """Samples put together.

    Attributes:
        images: as `util.nested_tensor.collate_fn` makes them.
        targets: likewise.
        complaints: of all samples.
        note: the first of the samples' notes, if there is any.
    """

    images: Any
    targets: Any
    complaints: list[str]
    note: str | None


class ReplacingDataset(Dataset):
    """Puts the next sample that can be read in the place of one that cannot.

    Args:
        dataset: a map-style data set, whose items raise a UserError where they cannot be read.
            Its method ``take_note``, if there is one, returns a sentence about the item just read,
            or None.
        allowed: how many may be replaced; 0: the error goes on.
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
        raise UserError("no image of the data set can be read")


def _note_of(dataset: Any) -> str | None:
    """The data set's note about the item just read, if it makes notes."""
    return dataset.take_note() if hasattr(dataset, "take_note") else None


def refuse_too_many(complaints: list[str], allowed: int) -> None:
    """Raise a UserError with the last of the complaints where there are more than allowed."""
    if len(complaints) <= allowed:
        return
    if allowed == 0:
        raise UserError(f"{complaints[-1]} (or let training go on without it: --skip_bad_images N)")
    raise UserError(
        f"{complaints[-1]}; more images than --skip_bad_images {allowed} cannot be read"
    )


def collate_samples(samples: list[_Sample]) -> Batch:
    """`util.nested_tensor.collate_fn`, and the reports of all samples."""
    images, targets = collate_fn([(sample.image, sample.target) for sample in samples])
    complaints = [one for sample in samples for one in sample.complaints]
    note = next((sample.note for sample in samples if sample.note), None)
    return Batch(images, targets, complaints, note)


class ReportingLoader:
    """Passes on batches; reports each replaced image once, and the first note of the data set.

    Args:
        loader: of a `ReplacingDataset`, with `collate_samples`.
        dataset: what it wraps, for those who ask the loader for its data set.
        allowed: how many images may be replaced in a run.
        known: what was said of images before; new complaints are added.
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
                self._tell(complaint)
            if note is not None and not self._has_noted:
                self._has_noted = True
                print(note)
            yield images, targets

    def _tell(self, complaint: str) -> None:
        """Log a complaint that is new.

        Raises:
            UserError: it is one too many.
        """
        if complaint in self._known:
            return
        self._known.append(complaint)
        refuse_too_many(self._known, self._allowed)
        logger.warning(
            "%s; another image takes its place, number %d of --skip_bad_images %d",
            complaint,
            len(self._known),
            self._allowed,
        )
