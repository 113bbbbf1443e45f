"""Read YOLO data: one label file per image, and class names in ``data.yaml`` or ``classes.txt``."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.formats.image_files import files_in, header_size, images_in
from datasets.formats.tables import (
    Note,
    Place,
    ReadImage,
    Tables,
    as_tables,
    common_folder,
    raise_problems,
)
from datasets.formats.yolo_folders import CLASS_FILES, YoloFolders, label_files
from datasets.formats.yolo_labels import LabelFile, read_label_file
from util.errors import UserError


@dataclass(frozen=True)
class YoloData:
    """YOLO data.

    Attributes:
        folders: locations, from `datasets.formats.yolo_folders.find_yolo`.
    """

    folders: YoloFolders
    format = "YOLO"

    @property
    def splits(self) -> Mapping[str, Sequence[Path]]:
        """Images of each split."""
        return self.folders.splits

    def read(self, split: str, _known_ids: Mapping[str, int]) -> Tables:
        """Read a split. Category ids are the class numbers of the labels plus 1.

        Args:
            split: key of ``splits``.

        Raises:
            UserError: if files are missing or invalid.
        """
        names, images = self.folders.names, self.folders.splits[split]
        class_ids = {name: number for number, name in enumerate(names, start=1)}
        read, notes = self._read_labels(images)
        img_folder = common_folder(images)
        data = as_tables(read, class_ids, img_folder)
        source, part = self.folders.source, f" ({split})" if len(self.splits) > 1 else ""
        missing = self.folders.missing
        remarks = [f"{source} lists paths that do not exist: {missing}"] if missing else []
        return Tables(data, img_folder, source, self.format, notes, remarks, part)

    def _read_labels(self, images: Sequence[Path]) -> tuple[list[ReadImage], list[Note]]:
        """Read the images of a split with their objects.

        Raises:
            UserError: if there are no label files, or lines are invalid.
        """
        labels_of = label_files(images)
        existing = _text_files({labels.parent for labels in labels_of.values()})
        _refuse_no_labels(labels_of, existing)
        read: list[ReadImage] = []
        problems: list[str] = []
        empty: list[Place] = []
        unreadable: list[Place] = []
        for image, labels in labels_of.items():
            if (header := header_size(image)) is None:
                unreadable.append(Place(str(image)))
                continue
            try:
                file = self._read_file(labels, header.upright_wh, labels in existing)
            except UserError as error:
                problems.append(str(error))
                continue
            empty += [Place(labels.name, box) for box in file.empty]
            size_wh, upright = header.upright_wh, header.is_rotated
            read.append(ReadImage(image, size_wh, file.objects, labels.name, upright))
        raise_problems(problems, "correct the lines")
        notes = [
            Note("boxes with zero area ignored", empty),
            Note("images ignored as unreadable", unreadable),
            Note("files without image ignored", _without_image(images, existing)),
        ]
        return read, [note for note in notes if note.places]

    def _read_file(self, path: Path, size_wh: tuple[int, int], exists: bool) -> LabelFile:
        if not exists:
            return LabelFile([], [])
        return read_label_file(path, size_wh, self.folders.names, self.folders.keypoints)


def _refuse_no_labels(labels_of: Mapping[Path, Path], existing: Container[Path]) -> None:
    """Check that at least one image has a label file.

    Raises:
        UserError: if there is none; the message contains an expected path.
    """
    if not any(labels in existing for labels in labels_of.values()):
        image, labels = next(iter(labels_of.items()))
        raise UserError(
            f"none of the images has a label file: for {image} it is expected at {labels}; put "
            "the label files there"
        )


def _without_image(images: Sequence[Path], label_paths: set[Path]) -> list[Place]:
    """Label files in these folders that belong to no image of any split."""
    folders = {image.parent for image in images}
    known = label_files(image for folder in folders for image in images_in(folder))
    return [Place(str(path)) for path in sorted(label_paths.difference(known.values()))]


def _text_files(folders: Iterable[Path]) -> set[Path]:
    """Text files of folders, except lists of class names."""
    files = (path for folder in folders if folder.is_dir() for path in files_in(folder))
    texts = (path for path in files if path.suffix.lower() == ".txt")
    return {path for path in texts if path.name not in CLASS_FILES}
