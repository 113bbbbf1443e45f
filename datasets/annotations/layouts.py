"""Find images and annotations of a split, and explain how to read other folder layouts."""

import contextlib
import shlex
from collections.abc import Callable, Sequence
from itertools import chain, islice
from pathlib import Path

from datasets.annotations.foreign_formats import recognize_folder
from util.cli.suggestions import did_you_mean
from util.errors import UserError

# Usual paths of annotation files and image folders; {} is the name of the split.
_ROBOFLOW_FILE = "{}/_annotations.coco.json"
_ANNOTATION_FILES = (
    _ROBOFLOW_FILE,
    "{}/labels.json",  # FiftyOne
    "{}/annotations.json",
    "annotations/instances_{}2017.json",
    "annotations/instances_{}.json",  # CVAT: {} is the name of the subset
    "annotations/{}.json",
    "{}.json",
)
_IMAGE_FOLDERS = ("images/{}2017", "images/{}", "{}/images", "{}/data", "{}2017", "{}", "images")
SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation")}
_FOLDERS_TRIED = 50
_FILES_LISTED = 5


def coco_paths(
    image_set: str, coco_path: str | None, images: str | None, annotations: str | None
) -> tuple[Path, Path]:
    """Image folder and annotation file of a split: from its flags, else in COCO 2017's layout.

    Args:
        image_set: "train" or "val".
        coco_path: value of ``--coco_path``; not needed if both other values are given.
        images: value of ``--train_images`` or ``--val_images``.
        annotations: value of ``--train_ann`` or ``--val_ann``.

    Raises:
        UserError: if a flag is missing, or ``coco_path`` has a different layout.
    """
    if not coco_path and not (images and annotations):
        raise UserError(_explain_no_data(image_set, images, annotations))
    root = Path(coco_path or "")
    img_folder = root / f"{image_set}2017"
    ann_file = root / "annotations" / f"instances_{image_set}2017.json"
    if coco_path:
        pairs = ((images, img_folder), (annotations, ann_file))
        _check_layout(image_set, root, [path for named, path in pairs if not named])
    return Path(images or img_folder), Path(annotations or ann_file)


def _explain_no_data(image_set: str, images: str | None, annotations: str | None) -> str:
    """Message that lists the missing flags."""
    flags = {f"--{image_set}_images": images, f"--{image_set}_ann": annotations}
    missing = " and ".join(flag for flag, value in flags.items() if not value)
    given = "".join(f"{flag} is given, but " for flag, value in flags.items() if value)
    words = {"train": "training data", "val": "validation data (needed to evaluate each epoch)"}
    return f"{given}there is no {words[image_set]}: give {missing}, or --coco_path, or --data"


def _check_layout(image_set: str, coco_path: str | Path, expected: Sequence[Path]) -> None:
    """Raise an error with the flags to read it if ``--coco_path`` has another known layout."""
    root = Path(coco_path)
    missing = [path for path in expected if not path.exists()]
    if not missing:
        return
    if not root.exists():
        others = [folder.name for folder in root.absolute().parent.glob("*/")]
        hint = did_you_mean(root.name, others) or "; give the folder of the dataset"
        raise UserError(f"--coco_path {root} does not exist{hint}")
    if root.is_file():
        raise UserError(
            f"--coco_path {root} is a file, not a folder; give an annotation file with "
            f"--{image_set}_ann, and its images with --{image_set}_images"
        )
    found = None
    with contextlib.suppress(PermissionError):
        found = _explain(image_set, root)
    if found is not None:
        raise UserError(f"--coco_path {root}: {missing[0]} does not exist; {found}")


def find_split(root: Path, image_set: str) -> tuple[Path, Path] | None:
    """Find image folder and annotation file of a split by their usual names; None if missing.

    Args:
        image_set: "train" or "val".
    """
    for name in SPLIT_NAMES[image_set]:
        ann_file = _first(root, _ANNOTATION_FILES, name, Path.is_file)
        beside = ann_file == root / _ROBOFLOW_FILE.format(name)
        img_folder = _first(root, ("{}",) if beside else _IMAGE_FOLDERS, name, Path.is_dir)
        if ann_file is not None and img_folder is not None:
            return img_folder, ann_file
    return None


def find_annotation_file(root: Path, image_set: str) -> Path | None:
    """Find the annotation file of a split by its usual names; None if missing.

    Args:
        image_set: "train" or "val".
    """
    files = (_first(root, _ANNOTATION_FILES, name, Path.is_file) for name in SPLIT_NAMES[image_set])
    return next((file for file in files if file is not None), None)


def _first(
    root: Path, patterns: Sequence[str], name: str, is_there: Callable[[Path], bool]
) -> Path | None:
    paths = (root / pattern.format(name) for pattern in patterns)
    return next((path for path in paths if is_there(path)), None)


def _explain(image_set: str, root: Path) -> str | None:
    """Describe the layout of ``root``, and the flags to read it; None if unknown."""
    splits = {name: find_split(root, name) for name in SPLIT_NAMES}
    found = {name: split for name, split in splits.items() if split is not None}
    if image_set in found:
        is_roboflow = any(file.name == Path(_ROBOFLOW_FILE).name for _, file in found.values())
        what = "it looks like a Roboflow export" if is_roboflow else "it has a different layout"
        return f"{what}: read it with --data {shlex.quote(str(root))}"
    if "train" in found:
        return (
            "there is no validation data: give --val_images and --val_ann, or hold out a part of "
            f"the training images with --data {shlex.quote(str(root))}"
        )
    if found:
        return "there is no training data: give --train_images and --train_ann"
    folders = sorted(path for path in root.iterdir() if path.is_dir())[:_FOLDERS_TRIED]
    for inner in folders:
        if (inner / "annotations").is_dir() and (inner / f"{image_set}2017").is_dir():
            return f"give --coco_path {shlex.quote(str(inner))}"
    if foreign := recognize_folder(root):
        return f"it looks like {foreign}"
    return _list_json_files(image_set, root)


def _list_json_files(image_set: str, root: Path) -> str | None:
    files = list(islice(chain(root.glob("*.json"), root.glob("*/*.json")), _FILES_LISTED))
    if not files:
        return None
    return (
        f"give one of its JSON files with --data, or with --{image_set}_ann and its images with "
        f"--{image_set}_images: {', '.join(map(str, sorted(files)))}"
    )
