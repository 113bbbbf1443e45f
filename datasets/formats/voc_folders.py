"""Find the folders and image lists of Pascal VOC data."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from datasets.annotations.foreign_formats import is_voc_file
from datasets.annotations.layouts import SPLIT_NAMES
from datasets.formats.image_files import files_in
from util.errors import UserError

# Usual names of folders, in lower case.
_XML_FOLDERS = ("annotations", "annotation", "xml", "xmls", "labels")
_IMAGE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img", "data")
# Lists for training and validation in ImageSets/Main, in order of preference.
_LISTS = (("train", "val"), ("trainval", "test"), ("train", "test"), ("trainval",), ("train",))
_FILES_SNIFFED = 5


class VocPart(NamedTuple):
    """Images of a split and their annotations.

    Attributes:
        xml_folder: folder of the XML files.
        img_folder: folder of the images.
        list_file: file with image names, one per line; None: all images and XML files.
    """

    xml_folder: Path
    img_folder: Path
    list_file: Path | None = None


Splits = Mapping[str, VocPart]  # "train" and "val"; only one of them if the data is not split


def find_voc(root: Path) -> Splits | None:
    """Find Pascal VOC data in a folder; None if there is none.

    Args:
        root: folder of the dataset, of ``VOCdevkit``, or of one year (``VOC2007``).

    Raises:
        UserError: if there are several datasets.
    """
    found = {
        folder: splits
        for folder in (root, root / "VOCdevkit")
        if folder.is_dir() and (splits := _find_splits(folder))
    }
    if not found:
        found = _find_years(root)
    if len(found) > 1:
        choices = " or ".join(str(folder) for folder in found)
        raise UserError(f"{root} contains several Pascal VOC datasets; give one: {choices}")
    return next(iter(found.values()), None)


def _find_years(root: Path) -> dict[Path, Splits]:
    """Find datasets in subfolders: VOC2007, or VOCdevkit/VOC2007."""
    folders = [*_subfolders(root), *_subfolders(root / "VOCdevkit")]
    folders = [folder for folder in folders if folder.name.lower().startswith("voc")]
    return {folder: splits for folder in folders if (splits := _find_splits(folder))}


def _find_splits(root: Path) -> Splits:
    """Find the splits of a folder: by lists, by subfolders, or all files as one split."""
    whole = _find_part(root)
    if whole is not None and (lists := _find_lists(root)):
        return {
            name: VocPart(whole.xml_folder, whole.img_folder, file) for name, file in lists.items()
        }
    splits = {}
    for split, names in SPLIT_NAMES.items():
        parts = (_find_part(root / name) or _find_inner_part(root, name) for name in names)
        if part := next((found for found in parts if found), None):
            splits[split] = part
    return splits or ({"train": whole} if whole is not None else {})


def _find_lists(root: Path) -> dict[str, Path]:
    for folder in (root / "ImageSets" / "Main", root / "ImageSets"):
        for names in _LISTS:
            files = [folder / f"{name}.txt" for name in names]
            if all(file.is_file() for file in files):
                return dict(zip(("train", "val"), files, strict=False))
    return {}


def _find_part(root: Path) -> VocPart | None:
    """Find XML files and images in a folder, or in subfolders with common names."""
    if not root.is_dir():
        return None
    inner = {folder.name.lower(): folder for folder in _subfolders(root)}
    images = next((inner[name] for name in _IMAGE_FOLDERS if name in inner), root)
    for folder in (root, *(inner[name] for name in _XML_FOLDERS if name in inner)):
        if _has_voc_file(folder):
            return VocPart(folder, images)
    return None


def _find_inner_part(root: Path, split: str) -> VocPart | None:
    """Find annotations/SPLIT next to images/SPLIT."""
    inner = {folder.name.lower(): folder for folder in _subfolders(root)}
    xml_folders = [inner[name] / split for name in _XML_FOLDERS if name in inner]
    img_folders = [inner[name] / split for name in _IMAGE_FOLDERS if name in inner]
    for xml_folder in xml_folders:
        for img_folder in img_folders:
            if xml_folder.is_dir() and img_folder.is_dir() and _has_voc_file(xml_folder):
                return VocPart(xml_folder, img_folder)
    return None


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    inner = (path for path in folder.iterdir() if path.is_dir())
    return sorted(path for path in inner if not path.name.startswith("."))


def _has_voc_file(folder: Path) -> bool:
    return any(is_voc_file(path) for path in xml_files(folder)[:_FILES_SNIFFED])


def xml_files(folder: Path) -> list[Path]:
    """XML files of a folder, without macOS's ``._`` files."""
    return [
        path
        for path in files_in(folder)
        if path.suffix.lower() == ".xml" and not path.name.startswith("._")
    ]
