"""Recognize the format of a dataset, and find its splits."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from datasets.annotations.foreign_formats import find_label_file
from datasets.formats.coco import coco_file, find_coco_file, find_coco_splits
from datasets.formats.tables import Tables
from datasets.formats.voc import VocData
from datasets.formats.voc_folders import find_voc
from datasets.formats.yolo import YoloData
from datasets.formats.yolo_folders import YAML_SUFFIXES, find_yolo, read_yaml_file
from util.cli.suggestions import did_you_mean
from util.errors import UserError
from util.options import option

_NAMES_SHOWN = 5
_FORMATS = (
    "COCO JSON (annotations/instances_train2017.json, train/_annotations.coco.json, …), "
    "Pascal VOC (XML files) or YOLO (data.yaml, or images/, labels/ and classes.txt)"
)


class DataSource(Protocol):
    """A dataset whose format is known."""

    @property
    def format(self) -> str:
        """Name of the format."""

    @property
    def splits(self) -> Mapping[str, Any]:
        """Locations of "train" and "val"; only "train" if the data is not split."""

    def read(self, split: str, known_ids: Mapping[str, int]) -> Tables:
        """Read a split; if the format has only class names, known classes keep their ids."""


def split_names(source: DataSource) -> list[str]:
    """The splits that can be read: "train" and "val", or only "val"."""
    return ["train", "val"] if "train" in source.splits else ["val"]


def build_source(args: Any) -> DataSource | None:
    """Find the data of ``data``, ``voc_path`` or ``yolo_path``; None if none is given.

    Raises:
        UserError: if the path does not exist or cannot be read as data.
    """
    if option(args, "data"):
        return recognize(args.data)
    for format_name in _AS_FORMAT:
        if path := option(args, f"{format_name}_path"):
            return recognize_as(format_name, path)
    return None


def recognize(path: str | Path) -> DataSource:
    """Recognize the data at a path.

    Args:
        path: folder of a dataset, its YAML file, or a single annotation file.

    Raises:
        UserError: if the path does not exist or its format is not supported; the message describes
            what was found.
    """
    root = Path(path)
    _check_exists(root, "--data")
    if root.is_file():
        return _recognize_file(root)
    source: DataSource | None = (
        find_coco_splits(root)
        or _voc(root)
        or _yolo(root)
        or find_coco_file(root)
        or _recognize_inner(root)
    )
    if source is None:
        raise UserError(f"--data {root}: {_explain_unknown(root)}")
    return source


def _explain_unknown(root: Path) -> str:
    if (found := find_label_file(root)) is not None:
        format_name, file = found
        return (
            f"found {format_name} files such as {file}, but no known layout of images and "
            "annotations; give the folder that contains both"
        )
    names = sorted(path.name for path in root.iterdir())[:_NAMES_SHOWN]
    content = f"it contains {', '.join(names)}" if names else "it is empty"
    return f"no data in a known format: {content}; expected {_FORMATS}"


def _check_exists(root: Path, flag: str) -> None:
    if not root.exists():
        others = [path.name for path in root.absolute().parent.glob("*")]
        hint = did_you_mean(root.name, others) or "; give the folder of the dataset"
        raise UserError(f"{flag} {root} does not exist{hint}")


def _recognize_file(file: Path) -> DataSource:
    """Recognize a file."""
    suffix = file.suffix.lower()
    if suffix == ".json":
        return coco_file(file, file.parent)
    if suffix in YAML_SUFFIXES:
        return YoloData(read_yaml_file(file))
    if suffix in (".zip", ".gz", ".tar", ".tgz", ".7z", ".rar"):
        raise UserError(f"--data {file} is an archive: unpack it and give its folder")
    raise UserError(f"--data {file}: give the folder of the dataset, its data.yaml or a COCO JSON")


def _voc(root: Path) -> VocData | None:
    splits = find_voc(root)
    return None if splits is None else VocData(splits)


def _yolo(root: Path) -> YoloData | None:
    folders = find_yolo(root)
    return None if folders is None else YoloData(folders)


def _recognize_inner(root: Path) -> DataSource | None:
    """Recognize the data in the only subfolder, as in unpacked archives."""
    inner = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return recognize(inner[0]) if len(inner) == 1 else None


def recognize_as(format_name: str, path: str | Path) -> DataSource:
    """Find the data of a known format.

    Args:
        format_name: "voc" or "yolo".
        path: folder of the dataset, or its YAML file; the value of ``--voc_path`` or
            ``--yolo_path``.

    Raises:
        UserError: if there is no data in this format.
    """
    root, flag = Path(path), f"--{format_name}_path"
    _check_exists(root, flag)
    source = _AS_FORMAT[format_name](root)
    if source is None:
        expected = {
            "voc": "a folder with Annotations/, JPEGImages/ and ImageSets/Main, or with XML files",
            "yolo": "data.yaml, or a folder with images/, labels/ and classes.txt",
        }[format_name]
        raise UserError(f"{flag} {root}: expected {expected}; other formats are read with --data")
    return source


_AS_FORMAT: dict[str, Callable[[Path], DataSource | None]] = {
    "voc": lambda root: _voc(root) if root.is_dir() else None,
    "yolo": _yolo,
}
