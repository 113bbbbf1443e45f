"""Datasets whose images stay 8-bit until a batch is on its device."""

from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from datasets.coco import CocoDetection
from datasets.coco_panoptic import CocoPanoptic
from datasets.loading.byte_images import Normalization
from datasets.transforms import Compose, ToBytes, ToNormalizedTensor

# Attribute with the transforms by `__getitem__` of the class: a subclass that overrides the method
# expects normalized images.
_TRANSFORMS: dict[Any, str] = {
    CocoDetection.__getitem__: "_transforms",
    CocoPanoptic.__getitem__: "transforms",
}


class ByteImage(NamedTuple):
    """An image to be normalized later.

    Attributes:
        pixels: uint8 (3, H, W).
        normalization: mean and standard deviation.
    """

    pixels: Tensor
    normalization: Normalization


class ByteSamples(Dataset):
    """Returns a `ByteImage` in place of an image that the last transform normalizes.

    The transforms of the dataset are read for each image, so that they may be replaced between two
    epochs; images of transforms that do not end with `ToNormalizedTensor` are returned unchanged.

    Args:
        dataset: its class has a method ``untransformed``.
        name: its attribute with the transforms.
    """

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset, self._name = dataset, name

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        transforms = getattr(self.dataset, self._name)
        parts: Any = transforms.transforms if type(transforms) is Compose else []
        *first, last = parts or [None]
        if type(last) is not ToNormalizedTensor:
            image, target = self.dataset[index]
            return image, target
        image, target = Compose([*first, ToBytes()])(*self.dataset.untransformed(index))
        return ByteImage(image, last.normalization), target

    def pop_notice(self) -> str | None:
        """Message of the dataset about the last image, or None."""
        notice: str | None = self.dataset.pop_notice()
        return notice


def with_byte_images(dataset: Any) -> Any:
    """The dataset as `ByteSamples`; unchanged if its class is not known."""
    name = _TRANSFORMS.get(type(dataset).__getitem__)
    return dataset if name is None else ByteSamples(dataset, name)
