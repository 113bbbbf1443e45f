"""Classes of training data, validation data and checkpoint: compare and merge them."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from datasets.annotations.start_checks import stop_or_warn
from util.category_ids import category_id_of
from util.text import first_of

Labels = tuple[str, str]
Names = Mapping[int, str]


class Difference(NamedTuple):
    """A class that differs between two tables.

    Attributes:
        category_id: category id (in the second table, if the ids differ).
        detail: description of the difference.
    """

    category_id: int
    detail: str


class ClassTable(NamedTuple):
    """Classes by category id.

    Attributes:
        label: name of the table in messages: "training", "validation" or "checkpoint".
        source: path of the file.
        names: class names by category id.
        is_thing: whether each category id is a thing; empty for non-panoptic data.
        text_ids: original id of categories whose id is a string in the user's files.
    """

    label: str
    source: str
    names: Mapping[int, str]
    is_thing: Mapping[int, bool]
    text_ids: Mapping[int, str] = {}


def classes_of_run(
    val_set: Any,
    train_set: Any | None,
    checkpoint: Mapping[str, Any] | None,
    checkpoint_path: str,
    skip_checks: bool,
) -> ClassTable:
    """Merge the classes of training data, checkpoint and validation data, in this priority.

    Args:
        val_set: validation data, from `datasets.build_dataset`.
        train_set: training data; None for evaluation.
        checkpoint: content of the resumed or evaluated checkpoint, if any.
        skip_checks: value of ``--skip_checks``: print conflicts as warnings.

    Raises:
        UserError: if classes conflict, see `_check_classes`.
    """
    tables = [table_of_dataset("validation", val_set)]
    if checkpoint is not None:
        tables.insert(0, table_of_checkpoint(checkpoint_path, checkpoint))
    if train_set is not None:
        tables.insert(0, table_of_dataset("training", train_set))
    return _merge_classes(tables, skip_checks)


def table_of_dataset(label: str, dataset: Any) -> ClassTable:
    """Return the classes of a dataset.

    Args:
        dataset: its attributes ``ann_file``, ``categories``, ``text_ids`` and ``is_thing``
            (panoptic data) are used; all are optional.
    """
    source = str(getattr(dataset, "ann_file", type(dataset).__name__))
    names, is_thing, text_ids = (
        getattr(dataset, name, {}) for name in ("categories", "is_thing", "text_ids")
    )
    return ClassTable(label, source, names, is_thing, text_ids)


def table_of_checkpoint(source: str, checkpoint: Mapping[str, Any]) -> ClassTable:
    """Return the classes stored in a checkpoint; the original does not store classes."""
    names, is_thing = (
        {number: value for number, value in saved.items() if type(number) is int}
        if isinstance(saved := checkpoint.get(key), dict)
        else {}
        for key in ("categories", "is_thing")
    )
    return ClassTable(
        "checkpoint",
        source,
        {number: name for number, name in names.items() if isinstance(name, str)},
        {number: flag for number, flag in is_thing.items() if isinstance(flag, bool)},
        _text_ids_in(checkpoint),
    )


def _text_ids_in(checkpoint: Mapping[str, Any]) -> dict[int, str]:
    own_ids = checkpoint.get("category_ids")
    own_ids = own_ids if isinstance(own_ids, list) else []
    return {category_id_of(text): text for text in own_ids if isinstance(text, str)}


def _merge_classes(tables: Sequence[ClassTable], skip_checks: bool) -> ClassTable:
    """Add the ids of further tables to the first; tables without classes are ignored."""
    known, *others = [table for table in tables if table.names] or tables[:1]
    for other in others:
        _check_classes(known, other, skip_checks)
        known = known._replace(
            names={**other.names, **known.names},
            is_thing={**other.is_thing, **known.is_thing},
            text_ids={**other.text_ids, **known.text_ids},
        )
    return known


def _check_classes(first: ClassTable, second: ClassTable, skip_checks: bool) -> None:
    """Refuse conflicts of names, ids or things; print the classes that only one table has."""
    labels = first.label, second.label
    where = f"{first.label} ({first.source}) and {second.label} ({second.source})"
    text_ids = {**first.text_ids, **second.text_ids}
    conflicts = name_conflicts(first.names, second.names, labels, text_ids)
    conflicts += thing_conflicts(first.is_thing, second.is_thing, labels)
    problems = []
    if conflicts:
        problems.append(f"classes differ between {where}: {_in_words(conflicts, text_ids)}")
    fix = "use the same categories in both"
    if "checkpoint" in labels:
        fix += ", start a new run from the weights with --finetune"
    stop_or_warn(problems, fix, skip_checks)
    lone = only_in(first.label, first.names, second.names)
    lone += only_in(second.label, second.names, first.names)
    if lone:
        print(f"Classes in only one of {where}: {_in_words(lone, text_ids)}")


def _in_words(differences: Sequence[Difference], text_ids: Mapping[int, str]) -> str:
    """List the first few differences."""
    return first_of([f"id {text_ids.get(i, i)}: {detail}" for i, detail in differences])


def name_conflicts(
    first: Names, second: Names, labels: Labels, text_ids: Mapping[int, str] | None = None
) -> list[Difference]:
    """Find ids with different names, and names with different ids.

    Args:
        first: class names by category id.
        second: the same for the other table.
        labels: names of the tables in messages, e.g. ("train", "val").
        text_ids: original id of categories whose id is a string in the file.
    """
    first_label, second_label = labels
    shown = text_ids or {}
    ids_in_first, ids_in_second = _ids_by_name(first), _ids_by_name(second)
    conflicts = []
    for number, name in second.items():
        earlier = ids_in_first.get(name, [])
        if number in first and first[number] != name:
            detail = f"in {first_label} {first[number]!r}, in {second_label} {name!r}"
            conflicts.append(Difference(number, detail))
        elif earlier and not set(earlier) & set(ids_in_second[name]):
            ids = [shown.get(i, i) for i in (earlier[0], number)]
            detail = f"{name!r} has id {ids[0]} in {first_label}, {ids[1]} in {second_label}"
            conflicts.append(Difference(number, detail))
    return conflicts


def warn_of_other_ids(model: Names, file: Names, source: str) -> None:
    """Print a warning if detections have other category ids than an annotation file.

    Args:
        model: class names of the model by category id.
        file: the same of the annotation file.
        source: path of the annotation file, for the message.
    """
    if conflicts := _conflicts_of_named(model, file, ("the model", "the file")):
        print(
            f"Warning: {source} has other category ids than the model: {_in_words(conflicts, {})}; "
            "detections have the ids of the model, so an AP with this file will be wrong"
        )


def check_instance_classes(panoptic: ClassTable, instances: ClassTable, skip_checks: bool) -> None:
    """Check that a panoptic file and the instance annotations of its images have the same ids.

    Names are compared in lower case. Different names of the same id are printed as a warning.

    Args:
        panoptic: classes of the panoptic file; detections have these ids.
        instances: classes of the instance annotations, the ground truth of AP.
        skip_checks: value of ``--skip_checks``: print conflicts as warnings.

    Raises:
        UserError: if a name has different ids in the two files.
    """
    files = f"the panoptic file {panoptic.source} and the instance file {instances.source}"
    first, second = (
        {i: name.casefold() for i, name in table.names.items()} for table in (panoptic, instances)
    )
    labels = "the panoptic file", "the instance file"
    conflicts = _conflicts_of_named(first, second, labels)
    moved = [conflict for conflict in conflicts if second[conflict.category_id] in first.values()]
    renamed = [conflict for conflict in conflicts if conflict not in moved]
    problem = (
        f"category ids differ between {files}, so that AP would be wrong: {_in_words(moved, {})}"
    )
    fix = "make the ids agree, or give the matching file with --val_ann"
    stop_or_warn([problem] if moved else [], fix, skip_checks)
    if renamed:
        print(f"Warning: class names differ between {files}: {_in_words(renamed, {})}")


def warn_of_unnamed_classes(likely: Names, data: Names, source: str) -> None:
    """Print a warning if weights without class names may have other category ids than the data.

    Args:
        likely: class names that the weights probably have, by category id: COCO's.
        data: the same of the data.
        source: file of the weights.
    """
    if conflicts := _conflicts_of_named(likely, data, ("COCO", "the data")):
        print(
            f"Warning: {source} stores no class names; if its classes are COCO's, AP will be "
            f"wrong, because the data has other category ids: {_in_words(conflicts, {})}"
        )


def _conflicts_of_named(first: Names, second: Names, labels: Labels) -> list[Difference]:
    """`name_conflicts` without classes that have no name (only their id) in one of the tables."""
    first, second = (
        {i: name for i, name in names.items() if name != str(i)} for names in (first, second)
    )
    return name_conflicts(first, second, labels)


def thing_conflicts(
    first: Mapping[int, bool], second: Mapping[int, bool], labels: Labels
) -> list[Difference]:
    """Find ids that are a thing in one table and stuff in the other.

    Args:
        first: whether each category id is a thing.
        second: the same for the other table.
        labels: names of the tables in messages.
    """
    kinds = {True: "thing", False: "stuff"}
    return [
        Difference(number, f"{kinds[first[number]]} in {labels[0]}, {kinds[flag]} in {labels[1]}")
        for number, flag in second.items()
        if number in first and first[number] != flag
    ]


def only_in(label: str, here: Names, there: Names) -> list[Difference]:
    """Find ids that are in the table ``here``, but not in ``there``.

    Args:
        label: name of the table ``here`` in messages.
        here: class names by category id.
        there: the same for the other table.
    """
    return [
        Difference(number, f"{name!r} in {label} only")
        for number, name in here.items()
        if number not in there
    ]


def warn_of_similar_classes(names: Iterable[str]) -> None:
    """Print a warning if different class names look alike, such as Cat and cat."""
    for group in similar_names(names):
        print(
            f"Warning: the classes {' and '.join(map(repr, group))} look alike; "
            "if they are one class, correct the annotations"
        )


def warn_of_mirrored_classes(names: Iterable[str], flip_prob: float) -> None:
    """Print a warning if flips turn a class into another one, such as left hand and right hand.

    Args:
        names: class names of the training data.
        flip_prob: probability that a training image is flipped; its labels do not change.
    """
    pairs = mirrored_names(names) if flip_prob > 0 else []
    if pairs:
        print(
            f"Warning: {' and '.join(map(repr, pairs[0]))} are different classes, but --flip_prob "
            f"{flip_prob:g} mirrors training images without exchanging their labels: the model "
            "cannot learn to tell them apart; add --flip_prob 0"
        )


def mirrored_names(names: Iterable[str]) -> list[tuple[str, str]]:
    """Find pairs of names that differ only by left and right, in upper or lower case."""
    by_key = {name.casefold(): name for name in names}
    mirrored = {key: key.replace("left", "right") for key in by_key}
    return [(by_key[k], by_key[m]) for k, m in mirrored.items() if m != k and m in by_key]


def similar_names(names: Iterable[str]) -> list[list[str]]:
    """Find different names that look alike: equal but for case, spaces or encoding of accents.

    Returns:
        groups of two or more names, each sorted.
    """
    groups: dict[str, set[str]] = {}
    for name in names:
        key = " ".join(unicodedata.normalize("NFC", name).casefold().split())
        groups.setdefault(key, set()).add(name)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def _ids_by_name(names: Names) -> dict[str, list[int]]:
    ids: dict[str, list[int]] = {}
    for number, name in names.items():
        ids.setdefault(name, []).append(number)
    return ids
