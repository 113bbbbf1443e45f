"""Access to annotations by image; shared by instance and panoptic files."""

import hashlib
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from datasets.annotations.coco_file import Row
from datasets.annotations.compact.columns import Columns, names_in
from datasets.annotations.compact.json_blocks import IrregularError
from datasets.annotations.compact.tables import CompactTables
from datasets.annotations.file_checks import absent_files, leads_outside
from datasets.annotations.segmentations import MAX_MASK_PIXELS
from util.files.image_files import MAX_PIXELS


def link(images: Columns, image_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Find the annotations of each image.

    Args:
        images: result of `image_columns`.
        image_ids: (N,) int64, the image of each annotation.

    Returns:
        for M images: ``image_id`` (M,), sorted; ``image_place`` (M,), row of each image in the
        table, in this order; ``size_wh`` (M, 2) and ``file_name`` as in `image_columns`; and
        ``image_row`` (N,) int32, row of the image of each annotation; ``by_image`` (N,) int32 and
        ``first`` (M + 1,) int64, an index by image as in CSR matrices: the annotations of the image
        in row i are in the rows ``by_image[first[i] : first[i + 1]]``.

    Raises:
        IrregularError: if images have the same id, or an annotation has an unknown image.
    """
    place = np.argsort(images["id"], kind="stable")
    ids = images["id"][place]
    found = np.searchsorted(ids, image_ids).clip(max=len(ids) - 1)
    if (ids[1:] == ids[:-1]).any() or (ids[found] != image_ids).any():
        raise IrregularError
    row = place[found].astype(np.int32)
    counts = np.bincount(row, minlength=len(ids))
    return {
        "image_id": ids,
        "image_place": place,
        "size_wh": images["size_wh"],
        "file_name": images["file_name"],
        "image_row": row,
        "by_image": np.argsort(row, kind="stable").astype(np.int32),
        "first": np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
    }


# Arrays that `TablesByImage.summary` hashes, as far as a kind of file has them.
_HASHED = (
    *("image_id", "image_place", "file_name", "image_row"),
    *("category_id", "bbox", "iscrowd", "map_name", "num_segments"),
)


class DataSummary(TypedDict):
    """Number of images, number of objects (or segments), and a hash of names, boxes and classes."""

    images: int
    objects: int
    hash: str


class TablesByImage:
    """Tables of an annotation file, with access by image.

    Attributes:
        size_wh: (M, 2) int64, width and height in pixels by row of the table "images"; 0: unknown.
        image_row: (N,) int32, row of the image of each annotation.
        categories: rows of the table "categories".

    Args:
        tables: with the arrays of `link`.
    """

    def __init__(self, tables: CompactTables) -> None:
        self._tables, arrays = tables, tables.arrays
        self._ids, self._place = arrays["image_id"], arrays["image_place"]
        self._by_image, self._first = arrays["by_image"], arrays["first"]
        self.size_wh, self.image_row = arrays["size_wh"], arrays["image_row"]
        self.categories: list[Row] = tables.other_keys["categories"]

    @property
    def ids(self) -> list[int]:
        """Image ids, sorted."""
        return self._ids.tolist()

    @property
    def sizes_wh(self) -> np.ndarray:
        """Width and height in pixels of each image, (M, 2), in the order of `ids`; 0: unknown."""
        return self.size_wh[self._place]

    @property
    def file_names(self) -> list[str]:
        """File name of each image, in the order of the table."""
        return names_in(self._tables.arrays["file_name"])

    def image(self, image_id: int) -> Row:
        """Row of an image.

        Raises:
            KeyError: if there is no image with this id.
        """
        return self.images_at([self._row_of(image_id)])[0]

    def images_at(self, rows: Any) -> list[Row]:
        """Some rows of the table "images", by their numbers."""
        return [self._tables.images[int(row)] for row in rows]

    def annotations_of(self, image_id: int) -> list[Row]:
        """Annotations of an image, in the order of the file."""
        row = self._row_of(image_id)
        return self.annotations_at(self._by_image[self._first[row] : self._first[row + 1]])

    def annotations_at(self, rows: Any) -> list[Row]:
        """Some rows of the table "annotations", by their numbers."""
        return [self._tables.annotations[int(row)] for row in rows]

    def tables(self) -> dict[str, Any]:
        """Return all tables as in the file. This takes as much memory as reading the file does."""
        count = len(self._tables.images), len(self.image_row)
        images, annotations = self.images_at(range(count[0])), self.annotations_at(range(count[1]))
        return {**self._tables.other_keys, "images": images, "annotations": annotations}

    def summary(self) -> DataSummary:
        """Numbers and a hash that differ if the file has other images, boxes or classes.

        Polygons, pixels and the categories of segments are not hashed.
        """
        arrays, digest = self._tables.arrays, hashlib.blake2b(digest_size=8)
        for name in _HASHED:
            if name in arrays:
                digest.update(arrays[name].tobytes())
        num_objects = (
            arrays["num_segments"].sum() if "num_segments" in arrays else len(self.image_row)
        )
        return {
            "images": len(self._ids),
            "objects": int(num_objects),
            "hash": digest.hexdigest(),
        }

    def images_outside(self, folder: str | Path) -> list[Row]:
        """Images whose file name points outside a folder."""
        names = enumerate(self.file_names)
        return self.images_at(row for row, name in names if leads_outside(name, folder))

    def all_files_exist(self, folder: str | Path) -> bool:
        """Whether the image files are in a folder."""
        return not absent_files(self.file_names, folder)

    def masks_fit(self, objects: np.ndarray) -> bool:
        """Whether images have valid sizes, and their masks fit into memory.

        Args:
            objects: (M,) number of masks by row of the table "images".
        """
        pixels = self.size_wh.prod(axis=1)
        is_valid = (pixels > 0) & (pixels <= MAX_PIXELS) & (pixels * objects <= MAX_MASK_PIXELS)
        return bool(is_valid.all())

    def _row_of(self, image_id: int) -> int:
        place = int(np.searchsorted(self._ids, image_id))
        if place == len(self._ids) or self._ids[place] != image_id:
            raise KeyError(image_id)
        return int(self._place[place])
