"""Statistics of a split for the report."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.check.findings import EXAMPLES_KEPT, Finding
from datasets.check.images import ImageSurvey, ListedImage
from datasets.formats.tables import Tables
from datasets.formats.voc import VocData

# Limits of COCO's small and medium objects: sides of squares in pixels.
SIDE_LIMITS = 32, 96


class Split(NamedTuple):
    """Location of a split.

    Attributes:
        name: "train" or "val".
        img_folder: folder that image file names are relative to.
        ann_file: annotation file, or the folder or list of several files.
        tables: annotations read from another format; None: ``ann_file`` is in COCO format and is
            read by the check.
    """

    name: str
    img_folder: Path
    ann_file: Path
    tables: Tables | None = None

    def source(self) -> str:
        """Format and path of the annotations."""
        if self.tables is None:
            return str(self.ann_file)
        return f"{self.tables.format}, {self.ann_file}{self.tables.part}"

    def remarks(self) -> list[str]:
        """Sentences about entries that were ignored or changed because of flags."""
        return [] if self.tables is None else self.tables.remarks

    def is_voc(self) -> bool:
        """Whether crowd annotations are Pascal VOC's difficult objects."""
        return self.tables is not None and self.tables.format == VocData.format


@dataclass
class ClassCount:
    """Counts of a class in a split.

    Attributes:
        name: name of the class.
        objects: number of annotations, without crowd annotations and empty boxes.
        images: number of images with such objects.
    """

    name: str
    objects: int = 0
    images: int = 0


class Spread(NamedTuple):
    """Distribution of numbers; all fields are 0 if there are none."""

    smallest: float
    median: float
    mean: float
    percentile_99: float
    largest: float

    @classmethod
    def of(cls, numbers: Iterable[float]) -> "Spread":
        """Compute the distribution of numbers."""
        values = np.fromiter(numbers, dtype=np.float64)
        if values.size == 0:
            return cls(0, 0, 0, 0, 0)
        percentiles = np.percentile(values, [0, 50, 99, 100])
        smallest, median, percentile_99, largest = (round(float(p), 2) for p in percentiles)
        return cls(smallest, median, round(float(values.mean()), 2), percentile_99, largest)


@dataclass
class SplitStatistics:
    """Statistics and findings of a split.

    Attributes:
        split: location of the split.
        images: listed images by id.
        classes: classes by category id.
        text_ids: id in the file by category id, where it is a string.
        num_annotations: number of annotations in the file.
        num_crowd: number of valid crowd annotations; in Pascal VOC, of difficult objects.
        num_images_with_crowd: number of images with crowd annotations.
        objects: number of objects by image id, without crowd annotations and empty boxes.
        box_areas: numbers of small, medium and large objects, by box area.
        sizes_wh: width and height by image id: of the image as training reads it, or from the
            annotation file if the image was not read.
        survey: statistics of the image files; None if they were not opened.
        findings: problems of the split.
    """

    split: Split
    images: dict[int, ListedImage]
    classes: dict[int, ClassCount]
    text_ids: dict[int, str] = field(default_factory=dict)
    num_annotations: int = 0
    num_crowd: int = 0
    num_images_with_crowd: int = 0
    objects: Counter[int] = field(default_factory=Counter)
    box_areas: dict[str, int] = field(default_factory=dict)
    sizes_wh: dict[int, tuple[int, int]] = field(default_factory=dict)
    survey: ImageSurvey | None = None
    findings: list[Finding] = field(default_factory=list)

    def class_names(self) -> dict[int, str]:
        """Class name of each category id."""
        return {number: entry.name for number, entry in self.classes.items()}

    def images_without_objects(self) -> list[int]:
        """Ids of the images without objects to train on."""
        return [image_id for image_id in self.images if self.objects[image_id] == 0]

    def objects_per_image(self) -> Spread:
        """Distribution of the number of objects over all images."""
        return Spread.of(self.objects[image_id] for image_id in self.images)

    def as_json(self) -> dict[str, Any]:
        """Convert to values for JSON, without the classes."""
        without = self.images_without_objects()
        stats: dict[str, Any] = {
            "annotation_file": str(self.split.ann_file),
            "image_folder": str(self.split.img_folder),
            "remarks": self.split.remarks(),
            "images": len(self.images),
            "annotations": self.num_annotations,
            "objects": self.objects.total(),
            "crowd_annotations": self.num_crowd,
            "images_with_crowd": self.num_images_with_crowd,
            "objects_per_image": self.objects_per_image()._asdict(),
            "objects_by_box_size": self.box_areas,
            "images_without_objects": {"count": len(without), "image_ids": without[:EXAMPLES_KEPT]},
            "image_width": Spread.of(width for width, _ in self.sizes_wh.values())._asdict(),
            "image_height": Spread.of(height for _, height in self.sizes_wh.values())._asdict(),
        }
        if self.survey is not None:
            stats["images_read"] = self.survey.num_read
            stats["images_by_mode"] = dict(self.survey.modes.most_common())
            stats["images_with_exif_orientation"] = self.survey.num_with_orientation
        return stats


def count_by_size(areas: np.ndarray) -> dict[str, int]:
    """Count small, medium and large boxes as defined by COCO.

    Args:
        areas: (N,) in square pixels.
    """
    num_small, num_medium = (int((areas < side**2).sum()) for side in SIDE_LIMITS)
    large = len(areas) - num_medium
    return {"small": num_small, "medium": num_medium - num_small, "large": large}


def unused_ids(category_ids: Collection[int]) -> Iterator[int]:
    """Yield the unused ids from 1 to the largest id."""
    candidates = range(1, max(category_ids, default=0))
    return (number for number in candidates if number not in category_ids)
