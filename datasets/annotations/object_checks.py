"""Warnings about annotation files that hide or repeat objects."""

import logging
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.annotations.coco_file import Row
from datasets.annotations.compact.instances import Instances
from util.text import EXAMPLES_SHOWN, counted, first_of

MANY_CROWDS = (
    "are crowds (iscrowd 1), which training and AP ignore; if they are single objects, set iscrowd "
    "to 0"
)
FILES_UNDER_SEVERAL_IDS = (
    "files are listed under several image ids with different objects; in training and AP "
    "the objects listed under the other ids count as background"
)
_MANY_COPIES = (
    "repeat the class and box of another annotation of the image: such objects are learned and "
    "scored as several; remove the copies"
)
# (share, minimum number) from which a warning is printed.
_CROWDS_EXPECTED = (0.05, 3)  # in COCO 0.012
_COPIES_EXPECTED = (0.01, 3)
_EMPTY_EXPECTED = (0.5, 3)  # share of the images
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd; spreads the bits of a number

logger = logging.getLogger(__name__)


def warn_about_objects(instances: Instances, ann_file: str | Path, training: bool) -> None:
    """Log a warning if the form of a file hides or repeats objects.

    - Many crowds: some programs set ``iscrowd`` to 1 for each RLE (Datumaro, which CVAT uses).
    - Many copies of annotations, as after two files have been merged twice.
    - Files listed under several ids: some scripts add an image per object.
    - Most training images without annotations: some programs export images that nobody has labeled.

    Args:
        instances: the annotations.
        ann_file: path of the file, for the messages.
        training: whether the file is for training.
    """
    problems = [*_problems(instances), *(_empty_images(instances) if training else ())]
    for problem in problems:
        logger.warning("%s: %s", ann_file, problem)


def _empty_images(instances: Instances) -> Iterator[str]:
    num_images = len(instances.size_wh)
    empty = np.flatnonzero(np.bincount(instances.image_row, minlength=num_images) == 0)
    if _are_many(len(empty), num_images, _EMPTY_EXPECTED):
        (first,) = instances.images_at(empty[:1])
        yield (
            f"{len(empty)} of {num_images} images have no object of the classes, such as "
            f"{first['file_name']}: they are trained as background; remove images that "
            "are not labeled yet"
        )


def _problems(instances: Instances) -> Iterator[str]:
    num_rows = len(instances.iscrowd)

    def described(chosen: np.ndarray, problem: str) -> str:
        """Number of annotations, what is wrong with them, and the first few."""
        rows = instances.annotations_at(chosen[:EXAMPLES_SHOWN])
        images = [instances.file_names[i] for i in instances.image_row[chosen[: len(rows)]]]
        ids = [
            f"annotation id {row['id']} ({name})" for row, name in zip(rows, images, strict=True)
        ]
        examples = first_of(ids, total=len(chosen))
        return f"{len(chosen)} of {num_rows} annotations {problem}: {examples}"

    crowds = np.flatnonzero(instances.iscrowd)
    some = instances.annotations_at(crowds[:EXAMPLES_SHOWN])
    if are_many_crowds(some, len(crowds), num_rows):
        yield described(crowds, MANY_CROWDS)
    if len(copies := _many_copies(instances)):
        yield described(copies, _MANY_COPIES)
    names = instances.file_names
    if len(set(names)) == len(names):
        return
    images, labels = instances.image_row.tolist(), instances.category_id.tolist()
    boxes = map(tuple, instances.bbox.tolist())
    divided = files_under_several_ids(
        dict(enumerate(names)), zip(images, zip(labels, boxes, strict=True), strict=True)
    )
    if divided:
        examples = first_of([f"{name} ({len(rows)} ids)" for name, rows in divided.items()])
        problem = counted(len(divided), FILES_UNDER_SEVERAL_IDS)
        yield f"{problem}: {examples}; give every file one id, with all its objects"


def _are_many(number: int, total: int, expected: tuple[float, int]) -> bool:
    share, least = expected
    return number >= max(share * total, least)


def _many_copies(instances: Instances) -> np.ndarray:
    """Annotations (not crowds) with the image, class and box of an earlier one, if there are many.

    Returns:
        their numbers, (M,); empty if there are only a few.
    """
    objects = np.flatnonzero(~instances.iscrowd)
    hashes = np.zeros(len(objects), dtype=np.uint64)
    for column in (instances.image_row, instances.category_id, *instances.bbox.T):
        values = column[objects].astype(np.float64) + 0.0  # -0 becomes 0
        hashes = (hashes ^ values.view(np.uint64)) * _FACTOR
        hashes ^= hashes >> np.uint64(32)
    ordered = np.sort(hashes)  # faster than argsort
    num_copies = int((ordered[1:] == ordered[:-1]).sum())
    if not _are_many(num_copies, len(instances.iscrowd), _COPIES_EXPECTED):
        return objects[:0]
    order = np.argsort(hashes, kind="stable")
    is_copy = hashes[order[1:]] == hashes[order[:-1]]
    return objects[np.sort(order[1:][is_copy])]


def are_many_crowds(crowds: Sequence[Row], num_crowds: int, num_annotations: int) -> bool:
    """Whether so many annotations are crowds that some are probably single objects.

    Args:
        crowds: some of the crowds. Difficult objects of Pascal VOC do not count: the reader of this
            format reports them.
        num_crowds: number of crowds.
        num_annotations: number of annotations.
    """
    is_voc = any("difficult" in row for row in crowds)
    return _are_many(num_crowds, num_annotations, _CROWDS_EXPECTED) and not is_voc


def files_under_several_ids(
    file_names: Mapping[int, str], objects: Iterable[tuple[int, Hashable]]
) -> dict[str, list[int]]:
    """Find files that are listed several times, with different objects.

    Args:
        file_names: file name of each image.
        objects: image, and class and box, of each annotation.

    Returns:
        images by file name.
    """
    images_of: defaultdict[str, list[int]] = defaultdict(list)
    for image, name in file_names.items():
        images_of[name].append(image)
    repeated = {name: images for name, images in images_of.items() if len(images) > 1}
    objects_of: defaultdict[int, set[Hashable]] = defaultdict(set)
    for image, one in objects if repeated else ():
        objects_of[image].add(one)
    return {
        name: images
        for name, images in repeated.items()
        if any(objects_of[image] != objects_of[images[0]] for image in images)
    }
