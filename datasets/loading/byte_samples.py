"""Data sets whose images stay 8-bit until a batch is on its device."""

import copy
from typing import Any, TypeVar

from datasets.coco import CocoDetection
from datasets.coco_panoptic import CocoPanoptic
from datasets.loading.byte_images import Normalization
from datasets.transforms import Compose, ToBytes, ToNormalizedTensor

D = TypeVar("D")

# Attribute with the transforms by `__getitem__` of the class: a subclass that overrides the method
# expects normalized images.
_TRANSFORMS: dict[Any, str] = {
    CocoDetection.__getitem__: "_transforms",
    CocoPanoptic.__getitem__: "transforms",
}


def with_byte_images(dataset: D) -> tuple[D, Normalization | None]:
    """A copy of a data set that returns images as uint8 (H, W, 3), not normalized.

    Args:
        dataset: returns images normalized by `ToNormalizedTensor` as the last transform; other data
            sets are returned unchanged.

    Returns:
        the data set, and the normalization that its images need, or None.
    """
    kind: Any = type(dataset)
    name = _TRANSFORMS.get(kind.__getitem__, "")
    transforms: Any = getattr(dataset, name, None)
    if type(transforms) is not Compose or not transforms.transforms:
        return dataset, None
    if type(transforms.transforms[-1]) is not ToNormalizedTensor:
        return dataset, None
    of_bytes = copy.copy(dataset)
    setattr(of_bytes, name, Compose([*transforms.transforms[:-1], ToBytes()]))
    return of_bytes, transforms.transforms[-1].normalization
