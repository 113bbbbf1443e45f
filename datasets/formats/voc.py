"""Read Pascal VOC data: one XML file per image, and lists of images per split."""

import re
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.annotations.foreign_formats import is_voc_file
from datasets.formats.image_files import (
    HeaderSize,
    comparable,
    files_in,
    header_size,
    images_in,
    is_image,
)
from datasets.formats.tables import (
    Note,
    Place,
    ReadImage,
    ReadObject,
    Tables,
    as_tables,
    common_folder,
    raise_problems,
)
from datasets.formats.text_files import filled_lines
from datasets.formats.voc_folders import Splits, VocPart, xml_files
from datasets.formats.voc_xml import VocFile, read_voc_file
from util.errors import UserError
from util.text import counted

_UNCLEAR = "have an EXIF orientation, and sizes do not show if boxes follow it; read as stored"
_CLEARLY_LARGER = 1.1  # factor of sides
_FLAG = re.compile(r"\s+(-1|0|1)$")  # follows an image name in lists for a single class

_Pairs = Mapping[Path, VocFile | None]  # annotation file of each image


@dataclass(frozen=True)
class VocData:
    """Pascal VOC data.

    Attributes:
        splits: locations of the splits, from `datasets.formats.voc_folders.find_voc`.
    """

    splits: Splits
    format = "Pascal VOC"

    def read(self, split: str, known_ids: Mapping[str, int]) -> Tables:
        """Read a split.

        Category ids start at 1, in the alphabetical order of the class names of all splits, so
        that they do not depend on the split. Known classes keep their ids.

        Args:
            split: key of ``splits``.
            known_ids: category ids by class name; may be empty.

        Raises:
            UserError: if files are missing or invalid.
        """
        contents = {name: _read_part(part) for name, part in self.splits.items()}
        pairs = [pair for file_of, _ in contents.values() for pair in file_of.items()]
        names = {row.name for _, file in pairs if file is not None for row in file.objects}
        file_of, notes = contents[split]
        images, size_notes, errors = _with_sizes(file_of, _placeholders(pairs))
        img_folder = common_folder(image.path for image in images)
        data = as_tables(images, _class_ids(names, known_ids), img_folder)
        part = self.splits[split]
        source = part.list_file or part.xml_folder
        remarks = self._unlisted(contents) if split == [*self.splits][-1] else []
        return Tables(
            data, img_folder, source, self.format, notes + size_notes, remarks, errors=errors
        )

    def _unlisted(self, contents: Mapping[str, tuple[_Pairs, list[Note]]]) -> list[str]:
        """Report images that are in none of the lists, such as test images; may be empty."""
        files = [part.list_file for part in self.splits.values() if part.list_file is not None]
        folders = {part.img_folder for part in self.splits.values()}
        if len(files) < len(self.splits) or len(folders) > 1:
            return []
        listed = {comparable(path.stem) for file_of, _ in contents.values() for path in file_of}
        names = {comparable(path.stem) for folder in folders for path in images_in(folder)}
        number = len(names - listed)
        are = "is" if number == 1 else "are"
        lists = " or ".join(file.name for file in files)
        where = f"{number} of {counted(len(names), 'images')} in {folders.pop()}"
        return [f"{where} {are} not listed in {lists}, and not used"] if number else []


def _class_ids(names: Iterable[str], known_ids: Mapping[str, int]) -> dict[str, int]:
    """Category ids of class names: known ids, then further ids in alphabetical order."""
    ids = dict(known_ids)
    for name in sorted(names):
        ids.setdefault(name, max(ids.values(), default=0) + 1)
    return ids


def _read_part(part: VocPart) -> tuple[_Pairs, list[Note]]:
    """Read the annotation files of a split, and find their images."""
    images = _ImageFinder(part.img_folder)
    listed = None if part.list_file is None else _listed_names(part.list_file, images)
    files = _read_files(part.xml_folder, listed)
    file_of, lone = images.pair(files.values())
    names: Iterable[str] = images.names() if listed is None else listed
    if listed is not None:
        with_image = files.keys() - {comparable(file.path.stem) for file in lone}
        _refuse_missing(part, listed, [n for n in listed if n not in with_image], images)
    for name in names:
        if name not in files:
            for image in images.named(name)[:1]:
                file_of.setdefault(image, None)
    if not file_of:
        raise UserError(
            f"{part.img_folder} has no images for the XML files in {part.xml_folder}"
            + (f", such as {lone[0].image_name or lone[0].path.stem}" if lone else "")
            + "; put the images there"
        )
    unused = [path for name in names for path in images.named(name) if path not in file_of]
    nested = _nested_xml_files(part.xml_folder) if listed is None else []
    empty = [Place(f.path.name, box) for f in file_of.values() if f for box in f.empty]
    notes = [
        Note("boxes with zero area ignored", empty),
        Note("files without an image ignored", [Place(f.path.name) for f in lone]),
        Note("images with the name of another image ignored", [Place(p.name) for p in unused]),
        Note("files in subfolders ignored", [Place(str(path)) for path in nested]),
    ]
    return file_of, [note for note in notes if note.places]


def _read_files(xml_folder: Path, listed: Container[str] | None) -> dict[str, VocFile]:
    """Read the annotation files (of the listed images) by comparable name."""
    files: dict[str, VocFile] = {}
    problems: list[str] = []
    for path in xml_files(xml_folder):
        key = comparable(path.stem)
        if listed is not None and key not in listed:
            continue
        if key in files:
            problems.append(f"{path} and {files[key].path.name} differ only in case")
        else:
            try:
                files[key] = read_voc_file(path)
            except UserError as error:
                problems.append(str(error))
    raise_problems(problems, "correct or remove the files")
    return files


def _listed_names(list_file: Path, images: "_ImageFinder") -> dict[str, str]:
    """Read a list of images: line and name, for messages, by key.

    Lists for a single class have a number after each name, which is ignored.
    """
    names: dict[str, str] = {}
    for number, line in filled_lines(list_file):
        path = Path(line)
        name = path.stem if is_image(path) else path.name
        if not images.named(comparable(name)):
            name = _FLAG.sub("", name)
        names.setdefault(comparable(name), f"line {number} ({name})")
    if not names:
        raise UserError(f"{list_file} lists no images; write one image name per line")
    return names


def _refuse_missing(
    part: VocPart, lines: Mapping[str, str], names: Iterable[str], images: "_ImageFinder"
) -> None:
    """Check that the listed images exist.

    Args:
        lines: line and name, for messages, by key.
        names: keys whose annotation file has no image, or does not exist.
    """
    missing = [lines[name] for name in names if not images.named(name)]
    if missing:
        prefix = f"{part.list_file} lists images that {part.img_folder} does not have: "
        raise_problems([prefix + missing[0], *missing[1:]], "add the images or remove the lines")


class _ImageFinder:
    """Finds the images of annotation files."""

    def __init__(self, img_folder: Path) -> None:
        self._by_key: defaultdict[str, list[Path]] = defaultdict(list)
        for path in images_in(img_folder):
            self._by_key[comparable(path.stem)].append(path)

    def names(self) -> list[str]:
        """Keys of all images."""
        return list(self._by_key)

    def named(self, key: str) -> list[Path]:
        """Images with this key."""
        return self._by_key.get(key, [])

    def pair(self, files: Iterable[VocFile]) -> tuple[dict[Path, VocFile | None], list[VocFile]]:
        """Return the annotation file of each image, and the files without an image."""
        file_of: dict[Path, VocFile | None] = {}
        lone = []
        for file in files:
            image = self._image_of(file)
            if image is None or image in file_of:
                lone.append(file)
            else:
                file_of[image] = file
        return file_of, lone

    def _image_of(self, file: VocFile) -> Path | None:
        """Image with the name of an annotation file, else with the file name in it."""
        images = self.named(comparable(file.path.stem))
        images = images or self.named(comparable(Path(file.image_name).stem))
        exact = [path for path in images if path.name == file.image_name]
        exact += [path for path in images if path.stem == file.path.stem]
        return next(iter([*exact, *images]), None)


def _nested_xml_files(folder: Path) -> list[Path]:
    """Annotation files in the subfolders of a folder."""
    files = (path for path in files_in(folder, recursive=True) if path.parent != folder)
    return [path for path in files if path.suffix.lower() == ".xml" and is_voc_file(path)]


def _placeholders(pairs: Iterable[tuple[Path, VocFile | None]]) -> set[tuple[int, int]]:
    """Wrong sizes in annotation files that no image had when it was annotated.

    In at least one of the files with such a size, a box ends clearly outside it, and all boxes fit
    the image.
    """
    found = set()
    for path, file in pairs:
        header = header_size(path)
        if file is None or header is None or file.size_wh in (None, *header[:2]):
            continue
        width, height = (_CLEARLY_LARGER * side for side in file.size_wh)
        if not _fit(file.objects, (width, height)) and _fit(file.objects, header.upright_wh):
            found.add(file.size_wh)
    return found


def _with_sizes(
    file_of: _Pairs, placeholders: Collection[tuple[int, int]]
) -> tuple[list[ReadImage], list[Note], list[Note]]:
    """Images with their objects and sizes; notes on corrected sizes; notes on errors."""
    read: list[ReadImage] = []
    corrected: list[Place] = []
    resized: list[Place] = []
    unclear: list[Place] = []
    for path, file in file_of.items():
        header = header_size(path)
        if header and header.is_rotated and header.stored_wh == header.upright_wh:
            unclear.append(Place(path.name))
        if file is None:
            read.append(ReadImage(path, header.upright_wh if header else None, [], path.name))
            continue
        size_wh = file.size_wh
        if header is not None and size_wh not in header[:2]:
            has = "none" if size_wh is None else f"{size_wh[0]} x {size_wh[1]}"
            width, height = header.upright_wh
            place = Place(file.path.name, f"{has}, but the image is {width} x {height}")
            if size_wh in placeholders or not _is_resized(file, header):
                size_wh = header.upright_wh
                corrected.append(place)
            else:
                resized.append(place)
        read.append(ReadImage(path, size_wh, file.objects, file.path.name))
    notes = [
        Note("files with a wrong image size; the size of the image is used", corrected),
        Note(f"images {_UNCLEAR}", unclear),
    ]
    errors = [Note("images probably resized after annotation", resized)] if resized else []
    return read, [note for note in notes if note.places], errors


def _is_resized(file: VocFile, header: HeaderSize) -> bool:
    """Whether an image was probably resized after annotation.

    The boxes fit the size in the file, but not the image, or the image is an enlarged copy.
    """
    if file.size_wh is None or not file.objects:
        return False
    is_enlarged = any(_is_enlarged(file.size_wh, size_wh) for size_wh in header[:2])
    return is_enlarged or (
        _fit(file.objects, file.size_wh) and not _fit(file.objects, header.upright_wh)
    )


def _is_enlarged(small_wh: tuple[int, int], large_wh: tuple[int, int]) -> bool:
    """Whether the second size is a multiple of the first, up to rounding, and clearly larger."""
    factor = large_wh[0] / small_wh[0]
    return factor > _CLEARLY_LARGER and abs(small_wh[1] * factor - large_wh[1]) <= factor


def _fit(objects: Sequence[ReadObject], size_wh: tuple[float, float]) -> bool:
    """Whether all boxes end within an image of this size."""
    boxes = [row.box_xywh for row in objects]
    return all(x + w <= size_wh[0] and y + h <= size_wh[1] for x, y, w, h in boxes)
