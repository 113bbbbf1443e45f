"""Compare the classes and images of training and validation data."""

import os

from datasets.annotations.class_tables import name_conflicts, only_in
from datasets.check.facts import SplitFacts
from datasets.check.findings import Example, Finding, Findings


def compare_splits(train: SplitFacts, val: SplitFacts) -> list[Finding]:
    """Return the problems found by comparing both splits."""
    findings = Findings("train, val")
    _compare_class_tables(findings, train, val)
    _compare_class_counts(findings, train, val)
    _find_shared_images(findings, train, val)
    return findings.all()


def _compare_class_tables(findings: Findings, train: SplitFacts, val: SplitFacts) -> None:
    names, val_names = train.class_names(), val.class_names()
    text_ids = {**train.text_ids, **val.text_ids}
    lone = only_in("train", names, val_names) + only_in("val", val_names, names)
    for kind, differences in (
        ("class_conflict", name_conflicts(names, val_names, ("train", "val"), text_ids)),
        ("class_table_differs", lone),
    ):
        for number, detail in differences:
            findings.add(kind, Example(category_id=number, detail=detail))


def _compare_class_counts(findings: Findings, train: SplitFacts, val: SplitFacts) -> None:
    for kind, here, there in (
        ("class_without_training", val, train),
        ("class_without_validation", train, val),
    ):
        for number, entry in here.classes.items():
            elsewhere = there.classes.get(number)
            if entry.objects and not (elsewhere and elsewhere.objects):
                detail = f"{entry.name!r}, {entry.objects} in {here.split.name}"
                findings.add(kind, Example(category_id=number, detail=detail))


def _find_shared_images(findings: Findings, train: SplitFacts, val: SplitFacts) -> None:
    """Find images with equal pixels or, if images were not opened, with equal path or name."""
    if train.survey is not None and val.survey is not None:
        for digest, image in train.survey.by_digest.items():
            if twin := val.survey.by_digest.get(digest):
                detail = f"identical to validation image id {twin.image_id} ({twin.file_name})"
                findings.add("duplicate_across_splits", image.example(detail))
        return
    val_paths = {os.path.realpath(image.path): image for image in val.images.values()}
    val_names = {image.path.name: image for image in val.images.values()}
    for image in train.images.values():
        if twin := val_paths.get(os.path.realpath(image.path)):
            detail = f"same file as validation image id {twin.image_id}"
            findings.add("duplicate_across_splits", image.example(detail))
        elif twin := val_names.get(image.path.name):
            detail = f"same file name as validation image id {twin.image_id}"
            findings.add("same_name_across_splits", image.example(detail))
