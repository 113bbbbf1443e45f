"""What a check of a data set can find, and where it was found.

Any format can be checked with this: a check notes kinds of faults and their places.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from datasets.annotations.box_formats import LOOKS_LIKE
from datasets.annotations.wording import in_short

Severity = Literal["error", "warning"]

# Places kept of each finding; the count goes on. Bounds memory and the JSON report.
EXAMPLES_KEPT = 1000


class Kind(NamedTuple):
    """A kind of fault.

    Attributes:
        severity: "error": training refuses the data, breaks off, or learns something wrong.
            "warning": it can be lived with, but should be known.
        means: what the places have in common, and what comes of it.
    """

    severity: Severity
    means: str


KINDS: dict[str, Kind] = {
    # ---- annotation file ----
    "refused": Kind("error", "training refuses the annotation file"),
    "missing_file": Kind("error", "images without a file"),
    "path_outside_folder": Kind("warning", "images whose path leads out of the image folder"),
    "more_objects_than_queries": Kind(
        "error", "training images with more objects than --num_queries; training stops there"
    ),
    "few_with_more_objects_than_queries": Kind(
        "warning",
        "validation images, or one or two training images, with more objects than --num_queries; "
        "the model cannot find all of them",
    ),
    "no_objects": Kind("error", "no box that a model could learn"),
    "duplicate_class_name": Kind("warning", "classes that share their name with another id"),
    # ---- boxes ----
    **{kind: Kind("error", f"boxes that {text}") for kind, text in LOOKS_LIKE.items()},
    "empty_box": Kind("warning", "boxes without area; training leaves them out"),
    "box_outside_image": Kind("warning", "boxes wholly outside; training leaves them out"),
    "box_beyond_edge": Kind("warning", "boxes over an edge by over 2 pixels; training clips them"),
    "oversized_box": Kind("warning", "boxes more than twice as wide or high as their image"),
    "tiny_box": Kind("warning", "boxes less than a pixel wide or high"),
    "whole_image_boxes": Kind("warning", "more than half of all boxes cover their whole image"),
    "duplicate_box": Kind("warning", "annotations with class and box of another on the same image"),
    "wrong_area": Kind(
        "warning", "areas not positive or larger than the box; scores by object size will be wrong"
    ),
    "mask_off_box": Kind("warning", "polygons that overlap their box by less than half (IoU)"),
    # ---- image files ----
    "unreadable_image": Kind("error", "image files that cannot be read; training stops there"),
    "decompression_bomb": Kind("error", "images above the size limits; training refuses them"),
    "size_mismatch": Kind(
        "error", "images of another size than the annotation file says; training stops there"
    ),
    "exif_rotated": Kind(
        "warning",
        "images that are stored sideways: the annotation file has the size after EXIF rotation; "
        "training turns them upright",
    ),
    "exif_ambiguous": Kind(
        "warning",
        "images with an EXIF orientation, and no telling by size whether boxes follow it; "
        "training reads stored pixels",
    ),
    "huge_image": Kind("warning", "images above Pillow's size limit; slow, and large in memory"),
    "duplicate_image": Kind("warning", "images with the pixels of another image of the split"),
    # ---- between splits ----
    "duplicate_across_splits": Kind(
        "warning", "training images that validation has too; its scores will be too good"
    ),
    "same_name_across_splits": Kind(
        "warning",
        "training images with the file name of a validation image; "
        "without --skip_images the pixels are compared",
    ),
    "class_conflict": Kind("error", "classes whose ids or names differ between the splits"),
    "class_table_differs": Kind("warning", "classes listed in one of the splits only"),
    "class_without_training": Kind("warning", "classes with objects in validation alone"),
    "class_without_validation": Kind(
        "warning", "classes with objects in training alone; their AP will be -1"
    ),
}


class Example(NamedTuple):
    """One place of a finding; what does not apply is None or empty.

    Attributes:
        image_id: as in the file; of a wrong type in its words.
        annotation_id: likewise.
        category_id: likewise.
        file_name: of the image, as in the annotation file.
        detail: what stands there.
    """

    image_id: int | str | None = None
    annotation_id: int | str | None = None
    category_id: int | str | None = None
    file_name: str | None = None
    detail: str = ""


@dataclass
class Finding:
    """What was found of one kind in one split.

    Attributes:
        kind: key of `KINDS`.
        split: "train", "val", or both with a comma.
        message: what the places have in common.
        count: number of places.
        examples: the first `EXAMPLES_KEPT` of them.
    """

    kind: str
    split: str
    message: str
    count: int = 0
    examples: list[Example] = field(default_factory=list)

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity


class Findings:
    """Collects findings, in the order in which their kinds first occur.

    Args:
        split: where they are found.
    """

    def __init__(self, split: str) -> None:
        self._split = split
        self._found: dict[tuple[str, str], Finding] = {}

    def note(self, kind: str, example: Example, message: str | None = None) -> None:
        """Count one place.

        Args:
            kind: key of `KINDS`.
            example: the place.
            message: what is wrong, where that is more exact than the kind.
        """
        message = KINDS[kind].means if message is None else message
        finding = self._found.setdefault((kind, message), Finding(kind, self._split, message))
        finding.count += 1
        if len(finding.examples) < EXAMPLES_KEPT:
            finding.examples.append(example)

    def note_many(self, kind: str, count: int, examples: list[Example], message: str) -> None:
        """Count places of which only some are known."""
        for example in examples:
            self.note(kind, example, message)
        self._found[kind, message].count += count - len(examples)

    def has(self, kind: str) -> bool:
        return any(noted == kind for noted, _ in self._found)

    def all(self) -> list[Finding]:
        """Everything found."""
        return list(self._found.values())


def id_of(value: Any) -> int | str | None:
    """An id as a report shows it: wrong types in words, so that any report is strict JSON."""
    return value if value is None or type(value) is int else in_short(value)
