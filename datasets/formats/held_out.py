"""Hold out some images for validation, for data without a split."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from datasets.annotations.coco_file import is_integer
from util.errors import UserError

_HASHED, _HASH_LENGTH = "sha256:", 16
# Roboflow appends this to the name of an image, with a different hash for each augmented copy.
_COPY = re.compile(r"\.rf\.\w+(?=\.\w+$)")


class ImageSplit(NamedTuple):
    """Names of the images that a run uses for training and for validation.

    A resumed run keeps these names, so that no image changes its split when images are added.
    """

    train: frozenset[str] = frozenset()
    val: frozenset[str] = frozenset()

    @classmethod
    def read(cls, saved: Any) -> "ImageSplit":
        """Read the entry of a checkpoint; empty if it has none."""
        lists = [saved.get(name) if isinstance(saved, Mapping) else None for name in cls._fields]
        return cls(
            *(frozenset(map(str, names if isinstance(names, list) else [])) for names in lists)
        )

    def saved(self) -> dict[str, list[str]]:
        """Entry of a checkpoint: sorted names."""
        return {name: sorted(names) for name, names in self._asdict().items()}

    def hashed(self) -> "ImageSplit":
        """The split with hashes of the names, for files that others may read."""
        return ImageSplit(*(frozenset(map(_hashed_name, names)) for names in self))

    def of_names(self, names: Iterable[str]) -> "ImageSplit":
        """Replace hashes by the names that have them; the hashes of other names are kept."""
        if not any(name.startswith(_HASHED) for part in self for name in part):
            return self
        name_of = {_hashed_name(name): name for name in names}
        return ImageSplit(*(frozenset(name_of.get(one, one) for one in part) for part in self))

    def with_images(self, train: Collection[str], val: Collection[str]) -> "ImageSplit":
        """Add images; known images keep their split."""
        known = self.train | self.val
        return ImageSplit(self.train | (set(train) - known), self.val | (set(val) - known))


NO_IMAGES = ImageSplit()


def _hashed_name(name: str) -> str:
    if name.startswith(_HASHED):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return _HASHED + digest[:_HASH_LENGTH]


def hold_out(
    data: Mapping[str, Any],
    fraction: float,
    seed: int,
    earlier: ImageSplit = NO_IMAGES,
    prefix: str = "",
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split tables into training and validation images.

    The images are chosen by a hash of seed and file name, so the result does not depend on the
    order of the tables. Every class with two or more images has at least one in each split, unless
    validation would have more than twice the requested fraction.

    Images of an earlier split keep their split. Further validation images are chosen from the
    others until the requested fraction of all images is reached.

    Args:
        data: COCO tables; rows without a valid id are kept in the training split.
        fraction: fraction of validation images, above 0; 1: all images.
        earlier: images whose split is known; ignored if the fraction is 1.
        prefix: beginning of the names in ``earlier``, before the file names of the tables.

    Returns:
        Tables of training and validation, each with all categories.

    Raises:
        UserError: if there are fewer than two images to split, or none for validation because all
            are training images of the earlier split.
    """
    names = {row["id"]: row.get("file_name") for row in data["images"] if is_integer(row.get("id"))}
    if fraction >= 1:
        return _select(data, set()), dict(data)
    known = {image_id: f"{prefix}{name}" for image_id, name in names.items()}
    in_val = {image_id for image_id, name in known.items() if name in earlier.val}
    in_train = {i for i, name in known.items() if name in earlier.train} - in_val
    first_row = _first_rows(names)
    groups = set(first_row.values())
    if len(groups) < 2 and not in_val and not in_train:
        raise UserError("one image cannot be split into training and validation; add images")
    ordered = sorted(groups, key=lambda image_id: (_hash(seed, names[image_id]), image_id))
    of_train, of_val = ({first_row[i] for i in part} for part in (in_train, in_val))
    classes = _classes_of_images(data, first_row)
    firsts = _choose(ordered, classes, fraction, of_train, of_val) - of_train
    chosen = in_val | {image_id for image_id, first in first_row.items() if first in firsts}
    if not chosen:
        raise UserError(
            "all images have the names of training images of the checkpoint; add images, evaluate "
            "on all images with --eval --val_fraction 1, or, if they are different images with the "
            "same names, choose validation images in a new run with --split_seed N"
        )
    invalid = {row.get("id") for row in data["images"] if not is_integer(row.get("id"))}
    return _select(data, (names.keys() | invalid) - chosen), _select(data, chosen)


def _first_rows(names: Mapping[int, Any]) -> dict[int, int]:
    """Map each image id to the id of its first copy (same file, or a Roboflow augmentation).

    Copies must be in the same split; the first is the one whose name sorts first.

    >>> _first_rows({1: "a_jpg.rf.0b1c.jpg", 2: "b.jpg", 3: "a_jpg.rf.9d2e.jpg", 4: "b.jpg"})
    {1: 1, 3: 1, 2: 2, 4: 2}
    """
    first: dict[Any, int] = {}
    in_order = sorted(names.items(), key=lambda row: (str(row[1]), row[0]))  # not of the tables
    return {
        image_id: first.setdefault(
            _COPY.sub("", name) if isinstance(name, str) else image_id, image_id
        )
        for image_id, name in in_order
    }


def _hash(seed: int, name: Any) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogatepass")).digest()


def _classes_of_images(
    data: Mapping[str, Any], first_row: Mapping[int, int]
) -> dict[int, set[str]]:
    """Classes by image id; all rows of the same image count for the first, see `_first_rows`."""
    classes: defaultdict[int, set[str]] = defaultdict(set)
    for row in data["annotations"]:
        if is_integer(row.get("image_id")):
            image_id = row["image_id"]
            classes[first_row.get(image_id, image_id)].add(str(row.get("category_id")))
    return classes


def _choose(
    ordered: Sequence[int],
    classes_of: Mapping[int, set[str]],
    fraction: float,
    in_train: Collection[int],
    in_val: Collection[int],
) -> set[int]:
    """Choose validation images: first one per class, rarest class first, then any others.

    Args:
        ordered: all image ids; earlier ones are chosen first.
        classes_of: classes of the images that have objects.
        fraction: fraction of validation images, 0 to 1.
        in_train: images that are not chosen.
        in_val: images that are always chosen.

    Returns:
        the chosen images; empty if all are in ``in_train``.
    """
    target = min(max(1, round(fraction * len(ordered))), len(ordered) - 1)
    images_of: defaultdict[str, list[int]] = defaultdict(list)
    for image_id in ordered:
        for name in classes_of.get(image_id, ()):
            images_of[name].append(image_id)
    in_training = Counter({name: len(images) for name, images in images_of.items()})
    chosen = set(in_val)
    for image_id in in_val:
        in_training.subtract(classes_of.get(image_id, ()))
    free = [image_id for image_id in ordered if image_id not in in_train and image_id not in in_val]

    def take_first(image_ids: Sequence[int], limit: int) -> None:
        """Choose the first image that training can spare without losing a class."""
        for image_id in image_ids:
            if len(chosen) >= limit:
                return
            names = classes_of.get(image_id, set())
            is_free = image_id not in chosen and image_id not in in_train
            if is_free and all(in_training[name] > 1 for name in names):
                chosen.add(image_id)
                in_training.subtract(names)
                return

    for name in sorted(images_of, key=lambda name: (len(images_of[name]), name)):
        if chosen.isdisjoint(images_of[name]):
            take_first(images_of[name], 2 * target)
    for image_id in free:
        take_first([image_id], target)
    return chosen or set(free[:1])


def _select(data: Mapping[str, Any], image_ids: Collection[Any]) -> dict[str, Any]:
    """Tables of some images."""
    return {
        **data,
        "images": [row for row in data["images"] if row.get("id") in image_ids],
        "annotations": [row for row in data["annotations"] if row.get("image_id") in image_ids],
    }
