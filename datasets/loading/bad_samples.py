"""Replace unreadable images, up to ``--skip_bad_images``, and report them in the main process.

DataLoader workers return their error messages with the samples; `ReportingLoader` logs each of them
once.
"""

import logging
from collections.abc import Iterator, Sized
from typing import Any, NamedTuple, cast

from torch.utils.data import DataLoader, Dataset

from datasets.loading.byte_images import ByteImages
from datasets.loading.byte_samples import ByteImage
from util.errors import UserError
from util.nested_tensor import collate_fn

logger = logging.getLogger(__name__)


class _Sample(NamedTuple):
    """The first readable sample at or after an index.

    Attributes:
        image: image from the dataset.
        target: target from the dataset.
        errors: messages about the unreadable images before this sample.
        notice: message of the dataset about this sample, or None.
    """

    image: Any
    target: Any
    errors: list[str]
    notice: str | None = None


class Batch(NamedTuple):
    """A collated batch.

    Attributes:
        images: `util.nested_tensor.NestedTensor` or `datasets.loading.byte_images.ByteImages`.
        targets: targets of the samples.
        errors: error messages of all samples.
        notice: first notice of the samples, or None.
    """

    images: Any
    targets: Any
    errors: list[str]
    notice: str | None


class ReplacingDataset(Dataset):
    """Replaces unreadable samples with the next readable sample.

    Args:
        dataset: map-style dataset that raises a UserError for unreadable items. An optional method
            ``pop_notice`` returns a message about the last item, or None.
        allowed: maximum number of replacements; 0: the error is raised.
    """

    def __init__(self, dataset: Dataset, allowed: int) -> None:
        self.dataset = dataset
        self._allowed = allowed

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitem__(self, index: int) -> _Sample:
        errors: list[str] = []
        for candidate in range(index, index + len(self)):
            try:
                image, target = self.dataset[candidate % len(self)]
                return _Sample(image, target, errors, _notice_from(self.dataset))
            except UserError as error:
                errors.append(error.one_line())
                refuse_too_many(errors, self._allowed)
        raise UserError("none of the images of the dataset can be read")


def _notice_from(dataset: Any) -> str | None:
    """Message of a dataset about the last item, if any."""
    return dataset.pop_notice() if hasattr(dataset, "pop_notice") else None


def refuse_too_many(errors: list[str], allowed: int) -> None:
    """Raise a UserError with the last error message if there are more than allowed."""
    if len(errors) <= allowed:
        return
    if allowed == 0:
        raise UserError(f"{errors[-1]} (or skip unreadable images with --skip_bad_images N)")
    raise UserError(f"{errors[-1]}; more images are unreadable than --skip_bad_images {allowed}")


def collate_samples(samples: list[_Sample]) -> Batch:
    """Collate samples of a `ReplacingDataset`, and combine their messages.

    8-bit images are neither normalized nor padded here, but by `ByteImages.to` on the device.
    """
    targets: Any
    if isinstance(samples[0].image, ByteImage):
        images = ByteImages(
            [sample.image.pixels for sample in samples], samples[0].image.normalization
        )
        targets = tuple(sample.target for sample in samples)
    else:
        images, targets = collate_fn([(sample.image, sample.target) for sample in samples])
    errors = [error for sample in samples for error in sample.errors]
    notice = next((sample.notice for sample in samples if sample.notice), None)
    return Batch(images, targets, errors, notice)


class ReportingLoader:
    """Yields (images, targets); logs each replaced image once, and prints a notice per topic.

    Args:
        loader: loads a `ReplacingDataset` with `collate_samples`.
        dataset: the original dataset, available as attribute ``dataset``.
        allowed: maximum number of replaced images per run.
        known: error messages logged earlier in the run; new messages are appended.
    """

    def __init__(
        self, loader: DataLoader, dataset: Dataset, allowed: int, known: list[str]
    ) -> None:
        self.dataset = dataset
        self._loader = loader
        self._allowed = allowed
        self._known = known
        self._topics: set[str] = set()  # of notices: their words before the first colon

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for images, targets, errors, notice in self._loader:
            for error in errors:
                self._report(error)
            if notice is not None and (topic := notice.partition(":")[0]) not in self._topics:
                self._topics.add(topic)
                print(notice)
            yield images, targets

    def _report(self, error: str) -> None:
        """Log an error message, if it is new."""
        if error in self._known:
            return
        self._known.append(error)
        refuse_too_many(self._known, self._allowed)
        logger.warning(
            "%s; replaced with another image (%d of --skip_bad_images %d)",
            error,
            len(self._known),
            self._allowed,
        )
