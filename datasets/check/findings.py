"""Kinds of problems that the dataset check reports, and the findings of a check."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from datasets.annotations.box_formats import LOOKS_LIKE
from datasets.annotations.object_checks import FILES_UNDER_SEVERAL_IDS, MANY_CROWDS
from util.text import shortened

Severity = Literal["error", "warning"]

# Examples kept per finding, to limit memory and the JSON report.
EXAMPLES_KEPT = 1000


class Kind(NamedTuple):
    """A kind of problem.

    Attributes:
        severity: "error": training rejects the data, stops, or learns from wrong data; "warning":
            suspicious data that training accepts.
        message: problem and consequence, in the plural.
    """

    severity: Severity
    message: str


KINDS: dict[str, Kind] = {
    # ---- annotation file ----
    "refused": Kind("error", "training rejects the annotation file"),
    "missing_file": Kind("error", "images have no file"),
    "ignored_entries": Kind("warning", "files or objects ignored or corrected when reading"),
    "path_outside_folder": Kind("warning", "images have a file_name outside the image folder"),
    "more_objects_than_queries": Kind(
        "error", "training images have more objects than --num_queries; training rejects them"
    ),
    "few_with_more_objects_than_queries": Kind(
        "warning", "images have more objects than --num_queries; the model cannot find all objects"
    ),
    "no_objects": Kind("error", "no usable boxes in the training data"),
    "duplicate_class_name": Kind("warning", "classes have the same name as another class"),
    "similar_class_names": Kind(
        "warning", "classes have names that look alike, such as Cat and cat"
    ),
    "mirrored_class_names": Kind(
        "warning", "classes differ by left and right; train with --flip_prob 0"
    ),
    "many_crowds": Kind("warning", f"annotations {MANY_CROWDS}"),
    "file_under_several_ids": Kind("warning", FILES_UNDER_SEVERAL_IDS),
    # ---- boxes ----
    **{kind: Kind("error", f"boxes {text}") for kind, text in LOOKS_LIKE.items()},
    "empty_box": Kind("warning", "boxes have zero area; training ignores them"),
    "box_outside_image": Kind(
        "warning", "boxes are entirely outside their image; training ignores them"
    ),
    "box_beyond_edge": Kind(
        "warning", "boxes exceed their image by more than 2 pixels; training clips them"
    ),
    "oversized_box": Kind("warning", "boxes are more than twice as wide or high as their image"),
    "tiny_box": Kind("warning", "boxes are less than a pixel wide or high"),
    "whole_image_boxes": Kind("warning", "more than half of all boxes cover their whole image"),
    "duplicate_box": Kind(
        "warning", "annotations have the class and box of another annotation of the image"
    ),
    "wrong_area": Kind(
        "warning",
        "annotations have an area of 0 or less, or larger than the box; AP by size will be wrong",
    ),
    "mask_box_mismatch": Kind("warning", "polygons do not match their box (IoU below 0.5)"),
    # ---- image files ----
    "unreadable_image": Kind("error", "image files are unreadable; training stops at them"),
    "decompression_bomb": Kind("error", "images exceed the size limits; training rejects them"),
    "size_mismatch": Kind(
        "error", "images have a size that differs from the annotation file; training stops at them"
    ),
    "exif_rotated": Kind(
        "warning",
        "images have annotations for the EXIF-rotated image; training rotates them accordingly",
    ),
    "exif_ambiguous": Kind(
        "warning",
        "images have an EXIF orientation, but their size does not show whether boxes follow it; "
        "training reads stored pixels",
    ),
    "huge_image": Kind(
        "warning", "images exceed Pillow's size limit; loading them is slow and needs much memory"
    ),
    "duplicate_image": Kind("warning", "images are identical to another image of the split"),
    # ---- between splits ----
    "duplicate_across_splits": Kind(
        "warning",
        "training images are also in the validation split; validation AP will be too high",
    ),
    "same_name_across_splits": Kind(
        "warning",
        "training images have the file name of a validation image; "
        "omit --skip_images to compare the pixels",
    ),
    "class_conflict": Kind("error", "classes have a different id or name in the other split"),
    "class_table_differs": Kind("warning", "classes are listed in only one split"),
    "class_without_training": Kind("warning", "classes have objects only in validation"),
    "class_without_validation": Kind(
        "warning", "classes have objects only in training; their AP will be -1"
    ),
}


class Example(NamedTuple):
    """One occurrence of a problem; fields that do not apply are None or empty.

    Attributes:
        image_id: image id in the file; as text if it is not an integer.
        annotation_id: annotation id in the file, in the same form.
        category_id: category id in the file, in the same form.
        file_name: file name of the image in the annotation file.
        detail: description of the occurrence.
    """

    image_id: int | str | None = None
    annotation_id: int | str | None = None
    category_id: int | str | None = None
    file_name: str | None = None
    detail: str = ""


@dataclass
class Finding:
    """A problem of a split, with its occurrences.

    Attributes:
        kind: key of `KINDS`.
        split: "train", "val" or "train, val".
        message: description of the problem, in the plural.
        count: number of occurrences.
        examples: the first `EXAMPLES_KEPT` occurrences.
    """

    kind: str
    split: str
    message: str
    count: int = 0
    examples: list[Example] = field(default_factory=list)

    @property
    def severity(self) -> Severity:
        """Severity of the problem."""
        return KINDS[self.kind].severity


class Findings:
    """Collects findings in the order of their first occurrence.

    Args:
        split: "train", "val" or "train, val".
    """

    def __init__(self, split: str) -> None:
        self._split = split
        self._found: dict[tuple[str, str], Finding] = {}

    def add(self, kind: str, example: Example, message: str | None = None) -> None:
        """Add one occurrence of a problem.

        Args:
            kind: key of `KINDS`.
            message: description of the problem, in the plural; default: the text in `KINDS`.
        """
        message = KINDS[kind].message if message is None else message
        finding = self._found.setdefault((kind, message), Finding(kind, self._split, message))
        finding.count += 1
        if len(finding.examples) < EXAMPLES_KEPT:
            finding.examples.append(example)

    def add_many(self, kind: str, count: int, examples: list[Example], message: str) -> None:
        """Add a problem with ``count`` occurrences and some examples.

        Args:
            kind: key of `KINDS`.
            examples: at least one of the occurrences.
            message: description of the problem, in the plural.
        """
        for example in examples:
            self.add(kind, example, message)
        self._found[kind, message].count += count - len(examples)

    def has(self, kind: str) -> bool:
        """Whether a problem of this kind was found."""
        return any(found == kind for found, _ in self._found)

    def all(self) -> list[Finding]:
        """Return all findings."""
        return list(self._found.values())


def id_of(value: Any) -> int | str | None:
    """Convert an id for a report: integers are kept, other types become text for valid JSON."""
    return value if value is None or type(value) is int else shortened(value)
