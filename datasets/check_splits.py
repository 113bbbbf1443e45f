"""Training and validation under check: whether they fit together, and share no image."""

import os

from datasets.check_facts import SplitFacts
from datasets.check_findings import Example, Finding, Findings


def compare_splits(train: SplitFacts, val: SplitFacts) -> list[Finding]:
    """What is wrong between two splits, each of which may be right by itself."""
    findings = Findings("train, val")
    _compare_class_tables(findings, train, val)
    _compare_class_counts(findings, train, val)
    _find_shared_images(findings, train, val)
    return findings.all()


def _compare_class_tables(findings: Findings, train: SplitFacts, val: SplitFacts) -> None:
    train_ids = {entry.name: number for number, entry in train.classes.items()}
    for number, entry in val.classes.items():
        in_train = train.classes.get(number)
        if in_train is not None and in_train.name != entry.name:
            detail = f"in train {in_train.name!r}, in val {entry.name!r}"
            findings.note("class_conflict", Example(category_id=number, detail=detail))
        elif in_train is None and entry.name in train_ids:
            detail = f"{entry.name!r} has id {train_ids[entry.name]} in train, {number} in val"
            findings.note("class_conflict", Example(category_id=number, detail=detail))
    for name, here, there in (("train", train, val), ("val", val, train)):
        for number in here.classes.keys() - there.classes.keys():
            detail = f"{here.classes[number].name!r} in {name} only"
            findings.note("class_table_differs", Example(category_id=number, detail=detail))


def _compare_class_counts(findings: Findings, train: SplitFacts, val: SplitFacts) -> None:
    for kind, here, there in (
        ("class_without_training", val, train),
        ("class_without_validation", train, val),
    ):
        for number, entry in here.classes.items():
            elsewhere = there.classes.get(number)
            if entry.objects and not (elsewhere and elsewhere.objects):
                detail = f"{entry.name!r}, {entry.objects} in {here.split.name}"
                findings.note(kind, Example(category_id=number, detail=detail))


def _find_shared_images(findings: Findings, train: SplitFacts, val: SplitFacts) -> None:
    """Note images of equal pixels; where these were not read, of one file, or else of one name."""
    if train.survey is not None and val.survey is not None:
        for digest, image in train.survey.by_digest.items():
            if twin := val.survey.by_digest.get(digest):
                detail = f"val has it as image id {twin.image_id} ({twin.file_name})"
                findings.note("duplicate_across_splits", image.example(detail))
        return
    val_paths = {os.path.realpath(image.path): image for image in val.images.values()}
    val_names = {image.path.name: image for image in val.images.values()}
    for image in train.images.values():
        if twin := val_paths.get(os.path.realpath(image.path)):
            detail = f"val has the file as image id {twin.image_id}"
            findings.note("duplicate_across_splits", image.example(detail))
        elif twin := val_names.get(image.path.name):
            detail = f"val has the name as image id {twin.image_id}"
            findings.note("same_name_across_splits", image.example(detail))
