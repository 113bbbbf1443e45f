"""Check image files by decoding each of them as training does."""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from PIL import Image

from datasets.check.findings import Example, Findings
from datasets.loading.images import (
    AS_STORED,
    SizeMatch,
    compare_sizes,
    exif_orientation,
    to_rgb,
    turn_upright,
)
from util.errors import UserError
from util.files.image_files import ImageTooLargeError, open_image
from util.terminal.bar import Tqdm

In = TypeVar("In")
Out = TypeVar("Out")

_KIND_OF_MATCH = {
    SizeMatch.TURNED: "exif_rotated",
    SizeMatch.DIFFERENT: "size_mismatch",
    SizeMatch.AMBIGUOUS: "exif_ambiguous",
}
_DIGEST_BYTES = 16
_ITEMS_PER_WORKER = 16


class ListedImage(NamedTuple):
    """An image listed in an annotation file.

    Attributes:
        image_id: id of the image.
        path: path of the image file.
        file_name: file name in the annotation file.
        size_wh: width and height in pixels in the annotation file, or None.
        upright: whether the annotations are known to refer to the upright image.
    """

    image_id: int
    path: Path
    file_name: str
    size_wh: tuple[int, int] | None
    upright: bool = False

    def exists(self) -> bool:
        """Whether the path exists, readable or not."""
        try:
            return os.path.lexists(self.path)
        except (OSError, ValueError):  # invalid names
            return False

    def example(self, detail: str = "") -> Example:
        """This image as an example of a finding."""
        return Example(image_id=self.image_id, file_name=self.file_name, detail=detail)


class StoredImage(NamedTuple):
    """Properties of an image file.

    Attributes:
        listed: the image in the annotation file.
        size_wh: stored width and height in pixels; if ``listed.upright``, upright.
        mode: Pillow's mode.
        orientation: EXIF orientation, 1 (upright) to 8.
        match: comparison of the stored size with the annotation file.
        digest: hash of the pixels.
    """

    listed: ListedImage
    size_wh: tuple[int, int]
    mode: str
    orientation: int
    match: SizeMatch
    digest: bytes


class UnreadableImage(NamedTuple):
    """An image file that training cannot read, and the reason."""

    listed: ListedImage
    reason: str
    is_bomb: bool


@dataclass
class ImageSurvey:
    """Statistics of the image files of a split.

    Attributes:
        num_read: number of readable files.
        modes: number of files by Pillow mode.
        num_with_orientation: number of files with an EXIF orientation other than upright.
        sizes_wh: width and height in pixels by image id, as training reads the images.
        by_digest: the first image with each hash of pixels.
    """

    num_read: int = 0
    modes: Counter[str] = field(default_factory=Counter)
    num_with_orientation: int = 0
    sizes_wh: dict[int, tuple[int, int]] = field(default_factory=dict)
    by_digest: dict[bytes, ListedImage] = field(default_factory=dict)


def survey_images(
    images: Sequence[ListedImage], findings: Findings, num_workers: int, title: str
) -> ImageSurvey:
    """Decode images and collect their problems.

    Args:
        findings: findings of the split; problems are added.
        num_workers: number of threads; 0: the calling thread.
        title: title of the progress bar, which is shown on a terminal only.
    """
    survey = ImageSurvey()
    with warnings.catch_warnings():
        # Pillow warns about large images, which are reported here, and about harmless headers.
        warnings.filterwarnings("ignore", module="PIL")
        inspected = _map_in_threads(_inspect_image, images, num_workers)
        for outcome in Tqdm(inspected, title, len(images), leave=False, disable=None):
            if isinstance(outcome, UnreadableImage):
                kind = "decompression_bomb" if outcome.is_bomb else "unreadable_image"
                findings.add(kind, outcome.listed.example(outcome.reason))
            else:
                _add_size_findings(findings, outcome)
                _add_to_survey(survey, findings, outcome)
    return survey


def _inspect_image(listed: ListedImage) -> StoredImage | UnreadableImage:
    """Decode an image file."""
    try:
        with open_image(listed.path, "it") as image:
            mode = image.mode
            pixels = to_rgb(image)
            orientation = exif_orientation(image)
            if listed.upright:
                pixels = turn_upright(pixels, orientation)
    except UserError as error:
        return UnreadableImage(listed, str(error), isinstance(error, ImageTooLargeError))
    digest = hashlib.blake2b(repr(pixels.size).encode(), digest_size=_DIGEST_BYTES)
    digest.update(pixels.tobytes())
    match = compare_sizes(pixels.size, listed.size_wh, AS_STORED if listed.upright else orientation)
    return StoredImage(listed, pixels.size, mode, orientation, match, digest.digest())


def _map_in_threads(
    function: Callable[[In], Out], items: Iterable[In], num_workers: int
) -> Iterator[Out]:
    """Like `map`, in threads and in order, reading only a few items ahead."""
    if num_workers == 0:
        yield from map(function, items)
        return
    remaining = iter(items)
    with ThreadPoolExecutor(num_workers) as pool:
        while chunk := list(islice(remaining, _ITEMS_PER_WORKER * num_workers)):
            yield from pool.map(function, chunk)


def _add_size_findings(findings: Findings, image: StoredImage) -> None:
    """Compare a readable image file with the annotation file."""
    listed, stored_wh, listed_wh = image.listed, image.size_wh, image.listed.size_wh
    sizes = f"file {_size_text(stored_wh)}"
    if listed_wh is not None:
        sizes += f", annotation file {_size_text(listed_wh)}"
    if image.orientation != AS_STORED:
        sizes += f", EXIF orientation {image.orientation}"
    if image.match in _KIND_OF_MATCH:
        findings.add(_KIND_OF_MATCH[image.match], listed.example(sizes))
    elif listed.upright and image.orientation != AS_STORED:
        findings.add("exif_rotated", listed.example(sizes))
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and stored_wh[0] * stored_wh[1] > limit:
        findings.add("huge_image", listed.example(_size_text(stored_wh)))


def _add_to_survey(survey: ImageSurvey, findings: Findings, image: StoredImage) -> None:
    survey.num_read += 1
    survey.modes[image.mode] += 1
    survey.num_with_orientation += image.orientation != AS_STORED
    is_turned = image.match is SizeMatch.TURNED  # in training
    size_wh = image.size_wh[::-1] if is_turned else image.size_wh
    survey.sizes_wh[image.listed.image_id] = size_wh
    first = survey.by_digest.setdefault(image.digest, image.listed)
    if first is not image.listed:
        detail = f"same as image id {first.image_id} ({first.file_name})"
        findings.add("duplicate_image", image.listed.example(detail))


def _size_text(size_wh: tuple[int, int]) -> str:
    return f"{size_wh[0]}x{size_wh[1]}"
