"""Samples returned by DataLoader workers, and their batches.

Images stay 8-bit until a batch is on its device, labels become rows of the classification head, and
unreadable images are replaced, up to ``--skip_bad_images``. Workers return their error messages
with the samples; `ReportingLoader` logs each of them once, in the main process.
"""

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datasets.coco import CocoDetection
from datasets.coco_panoptic import CocoPanoptic
from datasets.loading.byte_images import ByteImages, Normalization
from datasets.transforms import Compose, ToBytes, ToNormalizedTensor
from util.category_ids import CategoryIds
from util.errors import UserError
from util.nested_tensor import collate_fn

# Attribute that holds a dataset's transforms, by its `__getitem__`. A subclass that overrides
# `__getitem__` is not listed: it returns normalized images.
_TRANSFORMS: dict[Any, str] = {
    CocoDetection.__getitem__: "_transforms",
    CocoPanoptic.__getitem__: "transforms",
}

logger = logging.getLogger(__name__)


class ByteImage(NamedTuple):
    """An image to be normalized later.

    Attributes:
        pixels: uint8 (3, H, W).
        normalization: mean and standard deviation.
    """

    pixels: Tensor
    normalization: Normalization


class LoadedSample(NamedTuple):
    """The first readable sample at or after an index.

    Attributes:
        image: a `ByteImage`, or the image of the dataset.
        target: target of the dataset; labels are rows of the classification head.
        errors: messages about the unreadable images before this sample.
        notice: message of the dataset about this sample, or None.
    """

    image: Any
    target: Any
    errors: list[str]
    notice: str | None = None


class LoadedBatch(NamedTuple):
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


class Samples(Dataset):
    """Dataset of `LoadedSample`s.

    Args:
        dataset: map-style; returns (image, target), and raises a UserError for unreadable items. An
            optional method ``pop_notice`` returns a message about the last item, or None.
        allowed: maximum number of unreadable items that are replaced with the next readable one; 0:
            the error is raised.
        category_ids: category id of each row of the classification head; labels are converted to
            row numbers. None: labels are not changed.
    """

    def __init__(
        self, dataset: Any, allowed: int = 0, category_ids: CategoryIds | None = None
    ) -> None:
        self.dataset = dataset
        self._allowed = allowed
        self._category_ids = category_ids
        self._transforms_name = _TRANSFORMS.get(type(dataset).__getitem__)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> LoadedSample:
        errors: list[str] = []
        for candidate in range(index, index + len(self)):
            try:
                image, target = self._image_and_target(candidate % len(self))
                target = self._with_rows(target)
            except UserError as error:
                errors.append(error.one_line())
                refuse_too_many(errors, self._allowed)
                continue
            has_notices = hasattr(self.dataset, "pop_notice")
            notice = self.dataset.pop_notice() if has_notices else None
            return LoadedSample(image, target, errors, notice)
        raise UserError("none of the images of the dataset can be read")

    def _image_and_target(self, index: int) -> tuple[Any, Any]:
        """An item of the dataset; without normalization if that is the last transform.

        The image is then a `ByteImage`, which is normalized on the device.

        The transforms are read for each item, so that they may be replaced between two epochs.
        """
        name = self._transforms_name
        transforms = None if name is None else getattr(self.dataset, name)
        parts: Any = transforms.transforms if type(transforms) is Compose else []
        *first, last = parts or [None]
        if type(last) is not ToNormalizedTensor:
            image, target = self.dataset[index]
            return image, target
        image, target = Compose([*first, ToBytes()])(*self.dataset.untransformed(index))
        return ByteImage(image, last.normalization), target

    def _with_rows(self, target: Any) -> Any:
        """The target with rows of the classification head as labels, instead of category ids.

        Raises:
            UserError: the head has no row for a label.
        """
        if self._category_ids is None or self._category_ids.are_rows:
            return target
        try:
            return {**target, "labels": self._category_ids.rows_of(target["labels"])}
        except KeyError as error:
            raise UserError(
                f"image id {int(target['image_id'])}: the classification head has no row for "
                f"category id {error}; list the category in the annotation file"
            ) from None


def refuse_too_many(errors: list[str], allowed: int) -> None:
    """Raise a UserError with the last error message if there are more than allowed."""
    if len(errors) <= allowed:
        return
    if allowed == 0:
        raise UserError(f"{errors[-1]} (or skip unreadable images with --skip_bad_images N)")
    raise UserError(f"{errors[-1]}; more than --skip_bad_images {allowed} images are unreadable")


def collate_samples(samples: list[LoadedSample]) -> LoadedBatch:
    """Collate samples of a `Samples`, and combine their messages.

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
    return LoadedBatch(images, targets, errors, notice)


class ReportingLoader:
    """Yields (images, targets); logs each replaced image once, and prints a notice per topic.

    Args:
        loader: loads a `Samples` with `collate_samples`.
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
