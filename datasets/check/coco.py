"""Check a split in COCO instance format.

Annotation files are checked with the same rules as before training, `datasets.annotations.checks`.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from datasets.annotations.checks import check_annotations
from datasets.annotations.class_tables import mirrored_names, similar_names
from datasets.annotations.coco_file import (
    TEXT_ID,
    UPRIGHT,
    Row,
    are_numbers,
    category_names,
    is_integer,
    load_annotations,
    text_ids,
)
from datasets.annotations.file_checks import NO_FILE, explain_missing_files, leads_outside
from datasets.annotations.object_checks import are_many_crowds, files_under_several_ids
from datasets.annotations.start_checks import are_too_many, crowded_images, is_object
from datasets.annotations.table_checks import AnnotationFileError, Problem, size_wh
from datasets.check.boxes import Boxes, check_boxes, check_masks
from datasets.check.findings import EXAMPLES_KEPT, KINDS, Example, Findings, id_of
from datasets.check.images import ListedImage, survey_images
from datasets.check.pictures import Sample, choose_samples
from datasets.check.split_statistics import ClassCount, Split, SplitStatistics, count_by_size
from util.errors import UserError
from util.text import first_of, shortened


class Settings(NamedTuple):
    """Settings of a check.

    Attributes:
        num_queries: number of queries of the model.
        num_classes: category ids must be below this; None: no limit.
        masks: whether segmentations are checked.
        open_images: whether image files are decoded.
        num_workers: number of threads that decode images; 0: the calling thread.
        num_pictures: maximum number of images drawn per split.
    """

    num_queries: int = 100
    num_classes: int | None = None
    masks: bool = False
    open_images: bool = True
    num_workers: int = 2
    num_pictures: int = 0


class CocoSplit(NamedTuple):
    """A checked split.

    Attributes:
        stats: counts and findings.
        samples: images to draw.
    """

    stats: SplitStatistics
    samples: list[Sample]


def check_coco_split(split: Split, settings: Settings) -> CocoSplit:
    """Check the annotation file of a split, its boxes and its image files.

    Raises:
        UserError: if the annotation file cannot be read.
    """
    data = load_annotations(split.ann_file) if split.tables is None else split.tables.data
    findings = Findings(split.name)
    _add_ignored_entries(findings, split)
    ids_in_file = text_ids(data["categories"])
    stats = SplitStatistics(split, _listed_images(data, split), _classes(data), ids_in_file)
    stats.num_annotations = len(data["annotations"])
    present = _check_paths(findings, stats)
    stats.sizes_wh = {i: image.size_wh for i, image in stats.images.items() if image.size_wh}
    if settings.open_images:
        title = f"{split.name} images"
        stats.survey = survey_images(present, findings, settings.num_workers, title)
        stats.sizes_wh |= stats.survey.sizes_wh
    _check_training_rules(findings, data, stats, settings)
    _check_class_names(findings, stats)
    usable = [row for row in data["annotations"] if _is_usable(row, stats)]
    _count_annotations(stats, usable)
    _check_counts(findings, stats, settings)
    _check_lost_objects(findings, stats, usable)
    boxes = Boxes.of(usable, stats.sizes_wh, _file_names(stats))
    check_boxes(findings, boxes)
    if settings.masks:
        check_masks(findings, boxes)
    stats.findings = findings.all()
    names, count = stats.class_names(), settings.num_pictures
    return CocoSplit(stats, choose_samples(split.name, stats.images, usable, names, count))


def _add_ignored_entries(findings: Findings, split: Split) -> None:
    """Add what was ignored or corrected when reading a format other than COCO."""
    for note in split.tables.notes if split.tables is not None else []:
        examples = [Example(detail=str(place)) for place in note.places[:EXAMPLES_KEPT]]
        findings.add_many("ignored_entries", len(note.places), examples, note.text)


def _listed_images(data: dict[str, Any], split: Split) -> dict[int, ListedImage]:
    """Return the images of a file by id, without invalid rows."""
    images: dict[int, ListedImage] = {}
    for row in data["images"]:
        image_id, name = row.get("id"), row.get("file_name")
        if is_integer(image_id) and isinstance(name, str) and name:
            path, upright = split.img_folder / name, bool(row.get(UPRIGHT))
            listed = ListedImage(image_id, path, name, size_wh(row), upright)
            images.setdefault(image_id, listed)
    return images


def _classes(data: dict[str, Any]) -> dict[int, ClassCount]:
    """Return the classes of a file by sorted id, without invalid rows."""
    names = category_names([row for row in data["categories"] if is_integer(row.get("id"))])
    return {number: ClassCount(names[number]) for number in sorted(names)}


def _file_names(stats: SplitStatistics) -> dict[int, str]:
    return {image_id: image.file_name for image_id, image in stats.images.items()}


def _check_paths(findings: Findings, stats: SplitStatistics) -> list[ListedImage]:
    """Find missing files and paths outside the image folder, and return images that have a file."""
    present, missing, folder = [], [], stats.split.img_folder
    for image in stats.images.values():
        if image.exists():
            present.append(image)
        else:
            missing.append(image)
        if leads_outside(image.file_name, folder):
            findings.add("path_outside_folder", image.example(os.path.abspath(image.path)))
    if missing:
        flag = None if present else f"--{stats.split.name}_images"
        names = [image.file_name for image in missing]
        hint = explain_missing_files(names, folder, flag)
        message = f"{KINDS['missing_file'].message}; {hint}"
        for image in missing:
            findings.add("missing_file", image.example(), message)
    return present


def _check_training_rules(
    findings: Findings, data: dict[str, Any], stats: SplitStatistics, settings: Settings
) -> None:
    """Find problems for which training rejects the annotation file."""
    split = stats.split
    try:
        check_annotations(
            data,
            split.ann_file,
            split.img_folder,
            training=split.name == "train",
            num_classes=settings.num_classes,
            masks=settings.masks,
        )
    except UserError as error:
        add_rejections(findings, error, _file_names(stats))


def _check_class_names(findings: Findings, stats: SplitStatistics) -> None:
    first: dict[str, int] = {}
    shown: dict[int, int | str] = {**stats.text_ids}
    for number, entry in stats.classes.items():
        earlier = first.setdefault(entry.name, number)
        if earlier != number:
            detail = f"{entry.name!r}, same as category id {shown.get(earlier, earlier)}"
            findings.add("duplicate_class_name", Example(category_id=number, detail=detail))
    for names in similar_names(first):
        ids = ", ".join(f"{name!r} (id {shown.get(first[name], first[name])})" for name in names)
        findings.add("similar_class_names", Example(detail=ids))
    for pair in mirrored_names(first):
        findings.add("mirrored_class_names", Example(detail=" and ".join(map(repr, pair))))


def _is_usable(row: Row, stats: SplitStatistics) -> bool:
    """Whether an annotation has a box, a listed image and a listed class."""
    box = row.get("bbox")
    return (
        is_integer(row.get("image_id"))
        and row["image_id"] in stats.images
        and is_integer(row.get("category_id"))
        and row["category_id"] in stats.classes
        and are_numbers(box)
        and len(row["bbox"]) == 4
    )


def _count_annotations(stats: SplitStatistics, usable: Iterable[Row]) -> None:
    """Count objects and crowds by image and by class."""
    images_of_class: defaultdict[int, set[int]] = defaultdict(set)
    images_with_crowd, areas = set(), []
    for row in usable:
        image_id, category_id, extent = row["image_id"], row["category_id"], row["bbox"][2:]
        if row.get("iscrowd"):
            stats.num_crowd += 1
            images_with_crowd.add(image_id)
        elif is_object(row):
            stats.objects[image_id] += 1
            stats.classes[category_id].objects += 1
            images_of_class[category_id].add(image_id)
            width, height = (max(float(side), 0) for side in extent)
            areas.append(width * height)
    stats.num_images_with_crowd = len(images_with_crowd)
    for category_id, image_ids in images_of_class.items():
        stats.classes[category_id].images = len(image_ids)
    stats.box_areas = count_by_size(np.array(areas, dtype=np.float64))


def _check_counts(findings: Findings, stats: SplitStatistics, settings: Settings) -> None:
    """Find images with more objects than queries, and training data without objects."""
    training = stats.split.name == "train"
    crowded = crowded_images(stats.objects, settings.num_queries)
    is_error = training and are_too_many(crowded)
    kind = "more_objects_than_queries" if is_error else "few_with_more_objects_than_queries"
    for image_id, count in crowded:
        findings.add(kind, stats.images[image_id].example(f"{count}"))
    if training and not stats.objects and not findings.has("refused"):
        findings.add("no_objects", Example())


def _check_lost_objects(findings: Findings, stats: SplitStatistics, usable: Sequence[Row]) -> None:
    """Find many crowds, and files listed under several ids with different objects."""
    crowds = [row for row in usable if row.get("iscrowd")]
    if are_many_crowds(crowds, len(crowds), len(usable)):
        for row in crowds:
            name = stats.images[row["image_id"]].file_name
            ids = (row["image_id"], id_of(row.get("id")), row["category_id"])
            findings.add("many_crowds", Example(*ids, name))
    objects = ((row["image_id"], (row["category_id"], *row["bbox"])) for row in usable)
    for image_ids in files_under_several_ids(_file_names(stats), objects).values():
        detail = f"image ids {first_of(image_ids)}"
        findings.add("file_under_several_ids", stats.images[image_ids[0]].example(detail))


def add_rejections(findings: Findings, rejection: UserError, file_names: Mapping[int, str]) -> None:
    """Add each problem for which training rejects the annotation file.

    Args:
        findings: findings of the split; missing files are not added twice.
    """
    if not isinstance(rejection, AnnotationFileError):
        findings.add("refused", Example(), str(rejection))
        return
    for problem in rejection.problems:
        if problem.text.startswith(NO_FILE) and findings.has("missing_file"):
            continue
        examples = [_example(problem, row, file_names) for row in problem.rows[:EXAMPLES_KEPT]]
        text = f"{problem.table} {problem.text}"
        text += f"; {problem.fix}" if problem.fix else ""
        findings.add_many("refused", len(problem.rows), examples, text)


def _example(problem: Problem, row: Row, file_names: Mapping[int, str]) -> Example:
    field, number = problem.field, id_of(row.get(TEXT_ID, row.get("id")))
    detail = "" if field is None else f"{field} {shortened(row.get(field))}"
    if problem.table == "categories":
        return Example(category_id=number, detail=detail)
    if problem.table == "images":
        image_id, annotation_id = number, None
    else:
        image_id, annotation_id = id_of(row.get("image_id")), number
    name = file_names.get(image_id) if isinstance(image_id, int) else None
    return Example(image_id, annotation_id, file_name=name, detail=detail)
