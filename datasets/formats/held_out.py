"""Hold out a part of the images for validation, for data that is not split."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from datasets.annotations.coco_file import is_integer
from util.errors import UserError


def hold_out(
    data: Mapping[str, Any], fraction: float, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split tables into training and validation images.

    The images are chosen by a hash of seed and file name, so the result does not depend on the
    order of the tables. Every class with two or more images has at least one in each part, unless
    validation would have more than twice the requested fraction.

    Args:
        data: COCO tables; rows without a valid id are kept in the training part.
        fraction: fraction of validation images, above 0; 1: all images.
        seed: seed of the choice.

    Returns:
        Tables of training and validation, each with all categories.

    Raises:
        UserError: if there are fewer than two images to split.
    """
    names = {row["id"]: row.get("file_name") for row in data["images"] if is_integer(row.get("id"))}
    if fraction >= 1:
        return _select(data, set()), dict(data)
    if len(names) < 2:
        raise UserError("one image cannot be split into training and validation; add images")
    ordered = sorted(names, key=lambda image_id: (_hash(seed, names[image_id]), image_id))
    chosen = _choose(ordered, _classes_of_images(data), fraction)
    invalid = {row.get("id") for row in data["images"] if not is_integer(row.get("id"))}
    return _select(data, (names.keys() | invalid) - chosen), _select(data, chosen)


def _hash(seed: int, name: Any) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogatepass")).digest()


def _classes_of_images(data: Mapping[str, Any]) -> dict[int, set[str]]:
    classes: defaultdict[int, set[str]] = defaultdict(set)
    for row in data["annotations"]:
        if is_integer(row.get("image_id")):
            classes[row["image_id"]].add(str(row.get("category_id")))
    return classes


def _choose(
    ordered: Sequence[int], classes_of: Mapping[int, set[str]], fraction: float
) -> set[int]:
    """Choose validation images: first one per class, rarest class first, then any others.

    Args:
        ordered: all image ids; earlier ones are chosen first.
        classes_of: classes of the images that have objects.
        fraction: fraction of validation images, 0 to 1.
    """
    target = min(max(1, round(fraction * len(ordered))), len(ordered) - 1)
    images_of: defaultdict[str, list[int]] = defaultdict(list)
    for image_id in ordered:
        for name in classes_of.get(image_id, ()):
            images_of[name].append(image_id)
    in_training = Counter({name: len(images) for name, images in images_of.items()})
    chosen: set[int] = set()

    def take_first(image_ids: Sequence[int], limit: int) -> None:
        """Choose the first image that training can spare without losing a class."""
        for image_id in image_ids:
            if len(chosen) >= limit:
                return
            names = classes_of.get(image_id, set())
            if image_id not in chosen and all(in_training[name] > 1 for name in names):
                chosen.add(image_id)
                in_training.subtract(names)
                return

    for name in sorted(images_of, key=lambda name: (len(images_of[name]), name)):
        if chosen.isdisjoint(images_of[name]):
            take_first(images_of[name], 2 * target)
    for image_id in ordered:
        take_first([image_id], target)
    return chosen or {ordered[0]}


def _select(data: Mapping[str, Any], image_ids: Collection[Any]) -> dict[str, Any]:
    """Tables of some images."""
    return {
        **data,
        "images": [row for row in data["images"] if row.get("id") in image_ids],
        "annotations": [row for row in data["annotations"] if row.get("image_id") in image_ids],
    }
