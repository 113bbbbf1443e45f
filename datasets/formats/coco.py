"""Find and read COCO annotation files in common folder layouts."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.annotations.coco_file import is_file_name, load_annotations
from datasets.annotations.file_checks import find_folder_with
from datasets.annotations.layouts import SPLIT_NAMES, find_annotation_file, find_split
from datasets.formats.tables import Tables
from util.errors import UserError

# Prefixes of COCO's other annotation files, which are not read.
_OTHER_FILES = ("panoptic_", "captions_", "person_keypoints_", "stuff_", "image_info_")
_KEYS = (b'"images"', b'"annotations"', b'"categories"', b'"licenses"', b'"info"')
_BYTES_SNIFFED = 4096
_NAMES_TRIED = 20


@dataclass(frozen=True)
class CocoData:
    """COCO annotation files.

    Attributes:
        splits: image folder and annotation file of "train", "val" or both. The image folder is a
            first guess: `read` also looks nearby.
        root: folder of the data.
    """

    splits: Mapping[str, tuple[Path, Path]]
    root: Path
    format = "COCO"

    def read(self, split: str, _known_ids: Mapping[str, int]) -> Tables:
        """Read a split.

        Args:
            split: key of ``splits``.

        Raises:
            UserError: if the file cannot be read, is not in COCO format, or its images are not
                found.
        """
        img_folder, ann_file = self.splits[split]
        data = load_annotations(ann_file, "correct or replace the file")
        valid = _file_names(data)
        if valid and all("\\" in name for name in valid) and not (img_folder / valid[0]).is_file():
            _convert_separators(data)  # written on Windows
            valid = _file_names(data)
        tried = [img_folder / name for name in valid[:_NAMES_TRIED]]
        remarks: list[str] = []
        if tried and not any(map(os.path.isfile, tried)):
            found = find_folder_with(valid, img_folder, split)
            if found is None:
                raise UserError(
                    f"{ann_file}: its images, such as {valid[0]}, are not in {img_folder} or a "
                    f"folder nearby; move them there, or give their folder with --{split}_images "
                    f"and the file with --{split}_ann instead of --data"
                )
            img_folder = found
            remarks = _remarks(img_folder, ann_file, self.root)
        return Tables(data, img_folder, ann_file, self.format, remarks=remarks)


def _remarks(img_folder: Path, ann_file: Path, root: Path) -> list[str]:
    """Report an image folder outside the data folder: it may belong to another dataset.

    Links are not followed. The data folder is ``root``, or the folder of its annotation folder.
    """
    root = Path(os.path.abspath(root))
    folders = (root, root.parent)
    own = next((folder.parent for folder in folders if _has_annotations(folder.name)), root)
    is_own = Path(os.path.abspath(img_folder)).is_relative_to(own)
    return [] if is_own else [f"The images of {ann_file} are read from {img_folder}"]


def _has_annotations(folder_name: str) -> bool:
    name = folder_name.lower()
    return name.startswith("annotation") or name == "labels"


def _file_names(data: Mapping[str, Any]) -> list[str]:
    """Valid file names of the table "images"."""
    names = [row.get("file_name") for row in data["images"]]
    return [name for name in names if is_file_name(name)]


def _convert_separators(data: Mapping[str, Any]) -> None:
    """Replace the separators of Windows in file names, in place."""
    for row in data["images"]:
        if is_file_name(row.get("file_name")):
            row["file_name"] = row["file_name"].replace("\\", "/")


def find_coco_splits(root: Path) -> CocoData | None:
    """Find training and validation data under their usual names; None if there is neither."""
    splits = {}
    for split in SPLIT_NAMES:
        if place := find_split(root, split):
            splits[split] = place
        elif file := find_annotation_file(root, split):
            splits[split] = (file.parent, file)
    return CocoData(splits, root) if splits else None


def find_coco_file(root: Path) -> CocoData | None:
    """Find the single annotation file of data that is not split; None if there is none.

    Raises:
        UserError: if there are several files.
    """
    files = sorted(path for pattern in ("*.json", "*/*.json") for path in root.glob(pattern))
    files = [path for path in files if _looks_like_coco(path)]
    if len(files) > 1:
        choices = " or ".join(map(str, files))
        raise UserError(f"{root} has several annotation files; give one: {choices}")
    return coco_file(files[0], root) if files else None


def coco_file(ann_file: Path, root: Path) -> CocoData:
    """Return the data of a single annotation file; its images may be in any folder nearby.

    Args:
        root: folder of the data.
    """
    return CocoData({"train": (ann_file.parent, ann_file)}, root)


def _looks_like_coco(path: Path) -> bool:
    """Whether a file begins like COCO instance annotations; only its first bytes are read."""
    if path.name.startswith((*_OTHER_FILES, "._")) or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            beginning = file.read(_BYTES_SNIFFED)
    except OSError:
        return False
    return beginning.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and any(
        key in beginning for key in _KEYS
    )
