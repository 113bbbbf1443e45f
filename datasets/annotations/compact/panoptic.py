"""Panoptic annotations as arrays, read and checked in one pass."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from datasets.annotations.coco_file import Row
from datasets.annotations.compact.columns import (
    Columns,
    are_unique,
    as_int64,
    column_of,
    file_name_bytes,
    flags,
    image_columns,
    integers,
    names_in,
)
from datasets.annotations.compact.images import TablesByImage, link
from datasets.annotations.compact.json_blocks import IrregularError, decode_rows
from datasets.annotations.compact.tables import Kind, tables_of
from datasets.annotations.file_checks import absent_files, leads_outside, warn_about_paths
from datasets.annotations.panoptic import (
    MAPS,
    PANOPTIC_CATEGORY_RULES,
    check_panoptic,
    load_panoptic,
)
from datasets.annotations.table_checks import first_few
from util.files.image_files import MAX_PIXELS
from util.files.panoptic_png import LARGEST_THING_ID, MAX_ID
from util.text import counted, first_of

logger = logging.getLogger(__name__)


class PanopticSegments(TablesByImage):
    """A valid panoptic annotation file: every image has one annotation.

    Attributes:
        num_segments: (N,) int32, number of segments of each annotation.
        category_ids: (K,) int64, unique category ids of the segments.
    """

    def __init__(self, data: str | Path | Mapping[str, Any]) -> None:
        """Read an annotation file, or convert tables that have been read.

        Raises:
            IrregularError: if the data is invalid, or unusual.
        """
        tables = tables_of(data, _KIND)
        super().__init__(tables)
        self.num_segments = tables.arrays["num_segments"]
        self.category_ids = tables.arrays["category_ids"]

    @property
    def segment_images(self) -> np.ndarray:
        """(S,) int32, row of the image of each segment."""
        return np.repeat(self.image_row, self.num_segments)

    @property
    def map_names(self) -> list[str]:
        """File name of each segment map, in the order of the annotations."""
        return names_in(self._tables.arrays["map_name"])

    def map_of(self, image_id: int) -> Row:
        """Annotation of an image.

        Raises:
            KeyError: if there is no image with this id.
        """
        return self.annotations_of(image_id)[0]

    def tables(self) -> dict[str, Any]:
        """Return all tables, with images and annotations sorted by image id."""
        tables = super().tables()
        tables["images"].sort(key=lambda row: row["id"])
        tables["annotations"].sort(key=lambda row: row["image_id"])
        return tables

    def pass_checks(
        self,
        ann_folder: str | Path,
        img_folder: str | Path | None,
        training: bool,
        num_classes: int | None,
    ) -> bool:
        """Whether the flag-dependent checks of `check_panoptic` pass."""
        if training and not self.num_segments.any():
            return False
        if num_classes is not None and self.category_ids.max(initial=0) >= num_classes:
            return False
        if not self.masks_fit(np.bincount(self.segment_images, minlength=len(self.size_wh))):
            return False
        has_images = img_folder is None or self.all_files_exist(img_folder)
        return has_images and not absent_files(self.map_names, ann_folder)

    def warn(
        self, ann_file: str | Path, ann_folder: str | Path, img_folder: str | Path | None
    ) -> None:
        """Log warnings about files outside their folder, and about images without segments."""
        maps = enumerate(self.map_names)
        outside = [number for number, name in maps if leads_outside(name, ann_folder)]
        warn_about_paths(ann_file, MAPS, self.annotations_at(outside), ann_folder)
        if img_folder is not None:
            warn_about_paths(ann_file, "images", self.images_outside(img_folder), img_folder)
            _warn_about_things(self.categories, ann_file)  # once: the evaluation gives no folder
        empty = self.annotations_at(np.flatnonzero(self.num_segments == 0))
        if empty:
            logger.warning(
                "%s: %s: %s",
                ann_file,
                counted(len(empty), "images have no segments, that is, no objects"),
                first_few(MAPS, empty, None),
            )


def _warn_about_things(categories: Sequence[Row], ann_file: str | Path) -> None:
    """Log a warning if categories do not say whether they are things."""
    silent = [row["id"] for row in categories if row.get("isthing") is None]
    if silent:
        logger.warning(
            "%s: %s (ids %s): ids up to %d count as things, larger ids as stuff, as in COCO; add "
            "isthing: 1 for things, 0 for stuff",
            ann_file,
            counted(len(silent), "categories have no isthing"),
            first_of(silent),
            LARGEST_THING_ID,
        )


def read_panoptic(
    ann_file: str | Path,
    ann_folder: str | Path,
    img_folder: str | Path | None = None,
    *,
    training: bool = False,
    num_classes: int | None = None,
) -> PanopticSegments:
    """Read and check a panoptic annotation file; log warnings.

    Args:
        ann_folder, img_folder, training, num_classes: see `check_panoptic`.

    Raises:
        UserError: see `load_panoptic` and `check_panoptic`.
    """
    # Slow: raises a detailed error if the data is invalid.
    explain = partial(
        check_panoptic,
        ann_file=ann_file,
        ann_folder=ann_folder,
        img_folder=img_folder,
        training=training,
        num_classes=num_classes,
    )
    try:
        panoptic = PanopticSegments(ann_file)
    except IrregularError:
        data = load_panoptic(ann_file)
        explain(data)
        panoptic = PanopticSegments(data)  # valid but irregular: convert it from memory
    if not panoptic.pass_checks(ann_folder, img_folder, training, num_classes):
        explain(panoptic.tables())
    panoptic.warn(ann_file, ann_folder, img_folder)
    return panoptic


def _map_columns(rows: Sequence[Row]) -> Columns:
    """Convert rows of "annotations", see `Kind`; arrays of segments are longer than the others."""
    lists = column_of(rows, "segments_info")
    if not set(map(type, lists)) <= {list}:
        raise IrregularError
    segments = list(chain.from_iterable(lists))
    if not set(map(type, segments)) <= {dict}:
        raise IrregularError
    ids, labels = integers(segments, "id"), integers(segments, "category_id")
    flags(segments, "iscrowd")
    areas = as_int64([area for area in column_of(segments, "area") if area is not None])
    if (
        (ids < 1).any()
        or (ids > MAX_ID).any()
        or (labels < 0).any()
        or (areas < 0).any()
        or (areas > MAX_PIXELS).any()
    ):
        raise IrregularError
    return {
        "image_id": integers(rows, "image_id"),
        "map_name": file_name_bytes(rows),
        "num_segments": np.array([len(segments) for segments in lists], dtype=np.int32),
        "segment_id": ids,
        "category_id": labels,
    }


def _finish(columns: Mapping[str, Columns], categories: Sequence[Row]) -> dict[str, np.ndarray]:
    """Check ids; see `Kind`."""
    images, maps = columns["images"], columns["annotations"]
    linked = link(images, maps["image_id"])
    known = np.array([row["id"] for row in categories], dtype=np.int64)
    category_ids = np.unique(maps["category_id"])
    # Encode (image, segment id) as one integer, to find duplicates.
    image_rows = np.repeat(linked["image_row"].astype(np.int64), maps["num_segments"])
    segments = image_rows * (MAX_ID + 1) + maps["segment_id"]
    if (
        len(maps["image_id"]) != len(images["id"])
        or not are_unique(linked["image_row"])
        or not np.isin(category_ids, known).all()
        or not are_unique(segments)
    ):
        raise IrregularError
    kept = {name: maps[name] for name in ("map_name", "num_segments")}
    return {**linked, **kept, "category_ids": category_ids}


_COLUMNS = {"images": image_columns, "annotations": _map_columns}
_KIND = Kind("panoptic", _COLUMNS, decode_rows, PANOPTIC_CATEGORY_RULES, _finish)
