"""Find and read COCO annotation files in any usual layout."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.annotations.coco_file import load_annotations
from datasets.annotations.layouts import SPLIT_NAMES, find_annotation_file, find_split
from datasets.annotations.missing_files import find_folder_with
from datasets.annotations.table_checks import is_file_name
from datasets.formats.tables import Tables
from util.errors import UserError

# Files of COCO beside the instance annotations.
_OTHER_FILES = ("panoptic_", "captions_", "person_keypoints_", "stuff_", "image_info_")
_KEYS = (b'"images"', b'"annotations"', b'"categories"', b'"licenses"', b'"info"')
_BYTES_SNIFFED = 4096


@dataclass(frozen=True)
class CocoData:
    """COCO annotation files.

    Attributes:
        splits: image folder and annotation file of "train" and "val", or of only one of them. The
            image folder may be wrong.
    """

    splits: Mapping[str, tuple[Path, Path]]
    format = "COCO"

    def read(self, split: str, _known_ids: Mapping[str, int]) -> Tables:
        """Read a split.

        Args:
            split: key of ``splits``.

        Raises:
            UserError: the file cannot be read, or is not in COCO format.
        """
        img_folder, ann_file = self.splits[split]
        data = load_annotations(ann_file, "correct or replace the file")
        return Tables(data, _folder_of_images(data, img_folder, split), ann_file, self.format)


def _folder_of_images(data: dict[str, Any], folder: Path, split: str) -> Path:
    """The folder, or if the images are not there, a folder nearby that has them."""
    names = [row.get("file_name") for row in data["images"]]
    valid: list[str] = [name for name in names if is_file_name(name)]
    if not valid or (folder / valid[0]).is_file():
        return folder
    return find_folder_with(valid, folder, split) or folder


def find_coco_splits(root: Path) -> CocoData | None:
    """Find training and validation data under their usual names; None if there is neither.

    Args:
        root: folder of the data set.
    """
    splits = {}
    for split in SPLIT_NAMES:
        if place := find_split(root, split):
            splits[split] = place
        elif file := find_annotation_file(root, split):
            splits[split] = (file.parent, file)
    return CocoData(splits) if splits else None


def find_coco_file(root: Path) -> CocoData | None:
    """Find a single annotation file, for data that is not split; None if there is none.

    Args:
        root: a folder that has the file, or has it in a subfolder.

    Raises:
        UserError: there are several files.
    """
    files = sorted(path for pattern in ("*.json", "*/*.json") for path in root.glob(pattern))
    files = [path for path in files if _looks_like_coco(path)]
    if len(files) > 1:
        choices = " or ".join(map(str, files))
        raise UserError(f"{root} has several annotation files; give one: {choices}")
    return of_file(files[0]) if files else None


def of_file(ann_file: Path) -> CocoData:
    """Data of a single annotation file; its images may be in any folder nearby."""
    return CocoData({"train": (ann_file.parent, ann_file)})


def _looks_like_coco(path: Path) -> bool:
    """Whether a file begins as COCO instance annotations; only its first bytes are read."""
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
