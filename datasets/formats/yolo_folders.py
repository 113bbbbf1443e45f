"""Find the images and class names of YOLO data, from a YAML file or by folder names."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import yaml

from datasets.annotations.foreign_formats import is_yolo_label_file
from datasets.annotations.layouts import SPLIT_NAMES
from datasets.formats.image_files import comparable, files_in, images_in, is_image
from datasets.formats.text_files import filled_lines, read_names, read_text
from util.errors import UserError

YAML_SUFFIXES = (".yaml", ".yml")
CLASS_FILES = ("classes.txt", "obj.names", "names.txt", "classes.names", "predefined_classes.txt")
_FILES_SNIFFED = 20
_LAST_IMAGES = re.compile(r"^(.*/)?images(?=/)", re.IGNORECASE)


class YoloFolders(NamedTuple):
    """Images and class names of YOLO data.

    Attributes:
        source: YAML file or folder, for messages.
        names: class names, in the order of their numbers.
        splits: images of each split: "train" and "val", or only one of them.
        keypoints: whether numbers after the box are keypoints.
        missing: description of the paths in the YAML file that do not exist; may be empty.
    """

    source: Path
    names: list[str]
    splits: Mapping[str, list[Path]]
    keypoints: bool = False
    missing: str = ""


def find_yolo(root: Path) -> YoloFolders | None:
    """Find YOLO data; None if there is none.

    Args:
        root: folder of the dataset, or its YAML file.

    Raises:
        UserError: if there are several YAML files, or a file is invalid.
    """
    if root.is_file():
        return read_yaml_file(root) if root.suffix.lower() in YAML_SUFFIXES else None
    yaml_files = [
        path
        for path in files_in(root)
        if path.suffix.lower() in YAML_SUFFIXES and _describes_data(path)
    ]
    if len(yaml_files) > 1:
        choices = " or ".join(map(str, yaml_files))
        raise UserError(f"{root} has several YOLO data files; give one: {choices}")
    return read_yaml_file(yaml_files[0]) if yaml_files else _from_folders(root)


# ---- data.yaml


def _read_yaml(path: Path) -> Any:
    """Read a YAML file without converting numbers and words such as ``no``: all are text."""
    try:
        return yaml.load(read_text(path), Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        reason = getattr(error, "problem", None) or str(error)
        raise UserError(f"{path}{line}: not YAML: {reason}; correct the file") from None


def _describes_data(path: Path) -> bool:
    content = _read_yaml(path)
    if not isinstance(content, dict):
        return False
    return "names" in content or ("nc" in content and "train" in content)


def read_yaml_file(path: Path) -> YoloFolders:
    """Find the images and class names listed in a YAML file.

    Raises:
        UserError: if the file is invalid, or lists no existing images.
    """
    content = _read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not the data file of a YOLO dataset: it has no key `names`")
    names = _names_in(content, path)
    base = content.get("path")
    bases = [path.parent / base, Path(base)] if isinstance(base, str) and base else []
    bases = [base for base in bases if base.is_dir()] + [path.parent]
    splits, missing = {}, []
    for split, keys in SPLIT_NAMES.items():
        values = [value for key in keys for value in _as_list(content.get(key))]
        places = {value: _find_place(value, bases) for value in values}
        missing += [f"{split}: {value}" for value, place in places.items() if place is None]
        found = [place for place in places.values() if place is not None]
        if images := {image for place in found for image in _images_of(place, bases)}:
            splits[split] = sorted(map(Path, _all_absolute_or_none(images)))
    if not splits:
        detail = f" ({'; '.join(missing)})" if missing else ""
        raise UserError(f"{path} lists no existing images{detail}; correct its keys train and val")
    return YoloFolders(path, names, splits, "kpt_shape" in content, "; ".join(missing))


def _all_absolute_or_none(paths: Collection[Path]) -> set[str]:
    """The paths, all of them absolute if some are."""
    if any(path.is_absolute() for path in paths):
        return {os.path.abspath(path) for path in paths}
    return set(map(str, paths))


def _names_in(content: Mapping[str, Any], path: Path) -> list[str]:
    """Class names of a YAML file: a list, or a mapping from number to name."""
    names = content.get("names")
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return _without_repetition(names, path)
    if isinstance(names, dict) and names:
        ordered = [names.get(str(number)) for number in range(len(names))]
        if all(isinstance(name, str) for name in ordered):
            return _without_repetition([str(name) for name in ordered], path)
        raise UserError(f"{path}: the keys of `names` must be 0, 1, 2 and so on")
    raise UserError(f"{path}: `names` must list the class names")


def _without_repetition(names: list[str], path: Path) -> list[str]:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"{path}: `names` has {repeated[0]!r} twice; list every class once")
    return names


def _as_list(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str) and text]


def _find_place(value: str, bases: list[Path]) -> Path | None:
    """Find a folder or list; of a path from another machine, use the longest end that exists."""
    if Path(value).is_absolute() and Path(value).exists():
        return Path(value)
    parts = PureWindowsPath(value).parts  # splits at / and \
    for start in range(max(1, len(parts))):
        for base in bases:
            place = base.joinpath(*parts[start:])
            if place.exists():
                return Path(os.path.normpath(place))
    return None


def _images_of(place: Path, bases: list[Path]) -> list[Path]:
    """Images of a folder with its subfolders, or of a list of paths."""
    if place.is_dir():
        return images_in(place, recursive=True)
    if is_image(place):
        return [place]
    images = []
    for number, line in filled_lines(place):
        image = _find_place(line, [place.parent, *bases])
        if image is None:
            raise UserError(f"{place}, line {number}: image {line} does not exist; correct it")
        images.append(image)
    return images


# ---- folders without data.yaml


def _from_folders(root: Path) -> YoloFolders | None:
    splits = {}
    for split, names in SPLIT_NAMES.items():
        for name in names:
            candidates = (root / "images" / name, root / name / "images", root / name)
            if images := next((i for i in map(_labeled_images, candidates) if i), []):
                splits[split] = images
                break
    if not splits:
        images = _labeled_images(root / "images")
        if not images and images_in(root):
            images = _labeled_images(root)
        splits = {"train": images} if images else {}
    if not splits:
        return None
    names_file = _find_class_file(root, splits)
    if names_file is None:
        raise UserError(
            f"{root} looks like YOLO data, but the class names are missing; write them to "
            f"{root / CLASS_FILES[0]}, one per line, in the order of the class numbers"
        )
    return YoloFolders(root, read_names(names_file), splits)


def _labeled_images(folder: Path) -> list[Path]:
    """Images of a folder if some of them have YOLO labels, else none."""
    if not folder.is_dir():
        return []
    images = images_in(folder, recursive=True)
    labels = (path for path in label_files(images).values() if path.is_file())
    filled = (path for path in labels if path.stat().st_size > 0)
    return images if any(map(is_yolo_label_file, islice(filled, _FILES_SNIFFED))) else []


def _find_class_file(root: Path, splits: Mapping[str, list[Path]]) -> Path | None:
    firsts = [images[:1] for images in splits.values()]
    label_folders = {file.parent for first in firsts for file in label_files(first).values()}
    folders = [root, root / "labels", *sorted(label_folders)]
    files = [folder / name for folder in folders for name in CLASS_FILES]
    return next((file for file in files if file.is_file()), None)


def label_files(images: Iterable[Path]) -> dict[Path, Path]:
    """Paths of the label files of images, which may not exist.

    They are in the folder ``labels`` instead of ``images``. If no image of a folder has a file
    there, files next to the images are used. A name that differs only in case or in the encoding of
    accents counts if no other image has it exactly.
    """
    of_folder: defaultdict[Path, list[Path]] = defaultdict(list)
    for image in images:
        of_folder[image.parent].append(image)
    paths: dict[Path, Path] = {}
    for group in of_folder.values():
        paths |= _label_files_of(group)
    return paths


def _label_files_of(images: Sequence[Path]) -> dict[Path, Path]:
    """`label_files` of the images of one folder."""
    apart = {image: _in_labels(image) for image in images}
    beside = {image: image.with_suffix(".txt") for image in images}
    for expected in (apart, beside):
        if found := _existing(expected):
            return {image: found.get(image, path) for image, path in expected.items()}
    return apart


def _existing(expected: Mapping[Path, Path]) -> dict[Path, Path]:
    """The label files of images that have one, by their expected paths."""
    files = {
        path
        for folder in {path.parent for path in expected.values()}
        if folder.is_dir()
        for path in files_in(folder)
    }
    found = {image: path for image, path in expected.items() if path in files}
    similar = {_similar(path): path for path in sorted(files.difference(found.values()))}
    for image, path in expected.items():
        if image not in found and (other := similar.get(_similar(path))):
            found[image] = other
    return found


def _similar(path: Path) -> tuple[Path, str]:
    """Folder and comparable name."""
    return path.parent, comparable(path.name)


def _in_labels(image: Path) -> Path:
    stem, _ = os.path.splitext(image)
    return Path(_LAST_IMAGES.sub(r"\1labels", f"{stem}.txt"))
