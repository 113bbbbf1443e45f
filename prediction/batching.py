"""Group images of equal network input size into batches, so that nothing is padded.

Padding changes the predictions of DETR slightly, because convolutions read it at the image border.
Without padding, the result for an image does not depend on its batch.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from PIL import Image
from torch import Tensor

Key = TypeVar("Key")

_BATCHES_PER_CHUNK = 4
_MAX_PIXELS = 100_000_000  # 300 MB as RGB


def chunks(
    images: Iterable[tuple[Key, Image.Image]], batch_size: int, max_pixels: int = _MAX_PIXELS
) -> Iterator[list[tuple[Key, Image.Image]]]:
    """Split a stream of images into lists that fit in memory.

    Args:
        images: pairs of a key and an image, read on demand.
        batch_size: images per batch; a list has at most `_BATCHES_PER_CHUNK` batches.
        max_pixels: a list ends once its images have this many pixels in total.
    """
    chunk: list[tuple[Key, Image.Image]] = []
    pixels = 0
    for key, image in images:
        chunk.append((key, image))
        pixels += image.width * image.height
        if len(chunk) >= _BATCHES_PER_CHUNK * batch_size or pixels >= max_pixels:
            yield chunk
            chunk, pixels = [], 0
    if chunk:
        yield chunk


def batches_of_one_size(inputs: Sequence[Tensor], batch_size: int) -> list[list[int]]:
    """Group network inputs of equal size.

    Args:
        inputs: [N] images (3, H, W).
        batch_size: maximum number of images per group.

    Returns:
        groups of indices; each index occurs once.
    """
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(inputs):
        by_size.setdefault(tuple(image.shape), []).append(index)
    return [
        indices[start : start + batch_size]
        for indices in by_size.values()
        for start in range(0, len(indices), batch_size)
    ]
