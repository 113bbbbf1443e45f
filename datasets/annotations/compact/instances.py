"""Instance annotations as arrays, read and checked in one pass."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datasets.annotations.checks import check_annotations
from datasets.annotations.coco_file import Row, fill_optional_fields, load_annotations
from datasets.annotations.compact.columns import (
    Columns,
    annotation_columns,
    are_unique,
    decode_annotations,
    image_columns,
)
from datasets.annotations.compact.images import TablesByImage, link
from datasets.annotations.compact.json_blocks import IrregularError
from datasets.annotations.compact.tables import Kind, tables_of
from datasets.annotations.table_checks import CATEGORY_RULES


class Instances(TablesByImage):
    """A valid instance annotation file.

    Attributes:
        category_id: (N,) int64, of each annotation.
        bbox: (N, 4) float64, box of each annotation, xywh in pixels.
        iscrowd: (N,) bool.
        has_shape: (N,) bool, whether ``segmentation`` can be converted to a mask of the image.
    """

    def __init__(self, data: str | Path | Mapping[str, Any]) -> None:
        """Read an annotation file, or convert tables that have been read.

        Raises:
            IrregularError: if the data is invalid, or unusual.
        """
        tables = tables_of(data, _KIND)
        super().__init__(tables)
        arrays = tables.arrays
        self.category_id, self.bbox = arrays["category_id"], arrays["bbox"]
        self.iscrowd, self.has_shape = arrays["iscrowd"], arrays["has_shape"]

    def annotations_at(self, rows: Any) -> list[Row]:
        """Some annotations by their numbers; missing ``area`` and ``iscrowd`` are filled in."""
        annotations = super().annotations_at(rows)
        fill_optional_fields(annotations)
        return annotations

    @property
    def is_object(self) -> np.ndarray:
        """(N,) bool, whether an annotation is a training target: no crowd, and no empty box."""
        return ~self.iscrowd & (self.bbox[:, 2:] > 0).all(axis=1)

    def pass_checks(
        self, img_folder: str | Path, training: bool, num_classes: int | None, masks: bool
    ) -> bool:
        """Whether the flag-dependent checks of `check_annotations` pass."""
        if training and self.iscrowd.all():  # also without annotations
            return False
        if num_classes is not None and self.category_id.max(initial=0) >= num_classes:
            return False
        if masks:
            objects = np.bincount(self.image_row[~self.iscrowd], minlength=len(self.size_wh))
            if not self.has_shape.all() or not self.masks_fit(objects):
                return False
        return self.all_files_exist(img_folder)


def read_instances(
    ann_file: str | Path,
    img_folder: str | Path,
    *,
    training: bool = False,
    num_classes: int | None = None,
    masks: bool = False,
    data: Mapping[str, Any] | None = None,
) -> Instances:
    """Read and check an instance annotation file.

    Args:
        img_folder, training, num_classes, masks: see `check_annotations`.
        data: tables that have already been read; ``ann_file`` is then used in messages only.

    Raises:
        UserError: see `load_annotations` and `check_annotations`.
    """
    # Slow: raises a detailed error if the data is invalid.
    explain = partial(
        check_annotations,
        ann_file=ann_file,
        img_folder=img_folder,
        training=training,
        num_classes=num_classes,
        masks=masks,
    )
    try:
        instances = Instances(ann_file if data is None else data)
    except IrregularError:
        data = load_annotations(ann_file) if data is None else data
        explain(dict(data))
        instances = Instances(data)  # valid but irregular: convert it from memory
    if not instances.pass_checks(img_folder, training, num_classes, masks):
        explain(instances.tables())
    return instances


def _finish(columns: Mapping[str, Columns], categories: Sequence[Row]) -> dict[str, np.ndarray]:
    """Check ids, and whether RLEs fit their images; see `Kind`."""
    images, annotations = columns["images"], columns["annotations"]
    ids = annotations["id"]
    known = np.array([row["id"] for row in categories], dtype=np.int64)
    is_known = np.isin(annotations["category_id"], known)
    if not are_unique(ids) or not is_known.all():
        raise IrregularError
    linked = link(images, annotations["image_id"])
    rle_wh = annotations["rle_hw"][:, ::-1]
    fits = (rle_wh == linked["size_wh"][linked["image_row"]]) | (rle_wh == 0)
    kept = {name: annotations[name] for name in ("category_id", "bbox", "iscrowd")}
    return {**linked, **kept, "has_shape": annotations["has_shape"] & fits.all(axis=1)}


_COLUMNS = {"images": image_columns, "annotations": annotation_columns}
_KIND = Kind("instances", _COLUMNS, decode_annotations, CATEGORY_RULES, _finish)
