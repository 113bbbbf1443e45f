"""Classes of a run: training data, validation data and checkpoint, compared and merged."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from datasets.annotations.class_tables import Difference, name_conflicts, only_in, thing_conflicts
from datasets.annotations.start_checks import stop_or_warn
from datasets.annotations.wording import EXAMPLES_SHOWN, with_rest


class ClassTable(NamedTuple):
    """Classes by category id.

    Attributes:
        label: what messages call the table: "training", "validation" or "checkpoint".
        source: path of the file.
        names: class names.
        is_thing: of panoptic data: whether a class is a thing; else empty.
    """

    label: str
    source: str
    names: Mapping[int, str]
    is_thing: Mapping[int, bool]


def classes_of_run(
    val_set: Any,
    train_set: Any | None,
    checkpoint: Mapping[str, Any] | None,
    checkpoint_path: str,
    skip_checks: bool,
) -> ClassTable:
    """Classes of the training data, or without any of the checkpoint; others only add ids.

    Args:
        val_set: validation data, of `datasets.build_dataset`.
        train_set: training data; None: the checkpoint is evaluated.
        checkpoint: content of the checkpoint that is resumed or evaluated, if there is one.
        checkpoint_path: path of the checkpoint.
        skip_checks: value of the flag: print conflicts as warnings.

    Raises:
        UserError: as `check_classes`.
    """
    tables = [table_of_dataset("validation", val_set)]
    if checkpoint is not None:
        tables.insert(0, table_of_checkpoint(checkpoint_path, checkpoint))
    if train_set is not None:
        tables.insert(0, table_of_dataset("training", train_set))
    return merge_classes(tables, skip_checks)


def table_of_dataset(label: str, dataset: Any) -> ClassTable:
    """Classes of a data set, none where it does not tell them.

    Args:
        label: what messages call it.
        dataset: may have ``ann_file``, ``categories`` and, of panoptic data, ``is_thing``.
    """
    source = str(getattr(dataset, "ann_file", type(dataset).__name__))
    return ClassTable(
        label, source, getattr(dataset, "categories", {}), getattr(dataset, "is_thing", {})
    )


def table_of_checkpoint(source: str, checkpoint: Mapping[str, Any]) -> ClassTable:
    """Classes in a checkpoint; none in files of the original and in what has another layout.

    Args:
        source: path of the checkpoint.
        checkpoint: its content.
    """
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
    )


def merge_classes(tables: Sequence[ClassTable], skip_checks: bool) -> ClassTable:
    """The classes of the first table, with those ids of the others that it lacks.

    Args:
        tables: at least one; tables without classes are passed over.
        skip_checks: value of the flag: print conflicts as warnings.

    Raises:
        UserError: as `check_classes`, for the first table and any other.
    """
    known, *others = [table for table in tables if table.names] or tables[:1]
    for other in others:
        check_classes(known, other, skip_checks)
        known = known._replace(
            names={**other.names, **known.names}, is_thing={**other.is_thing, **known.is_thing}
        )
    return known


def check_classes(first: ClassTable, second: ClassTable, skip_checks: bool) -> None:
    """Compare two tables; classes in one of them only are printed in one line.

    Args:
        first: of the training data, or of the checkpoint.
        second: to be compared with it.
        skip_checks: value of the flag: print conflicts as warnings.

    Raises:
        UserError: an id has another name in each table, a name another id, or a class is a thing
            in one table and stuff in the other.
    """
    labels = first.label, second.label
    where = f"{first.label} ({first.source}) and {second.label} ({second.source})"
    conflicts = name_conflicts(first.names, second.names, labels)
    conflicts += thing_conflicts(first.is_thing, second.is_thing, labels)
    problems = [f"classes differ between {where}: {_in_words(conflicts)}"] if conflicts else []
    stop_or_warn(problems, "make the class tables agree", skip_checks)
    lone = only_in(first.label, first.names, second.names)
    lone += only_in(second.label, second.names, first.names)
    if lone:
        print(f"Classes in one table only, of {where}: {_in_words(lone)}")


def _in_words(differences: Sequence[Difference]) -> str:
    """The first few differences, and how many more there are."""
    few = [f"id {one.category_id}: {one.detail}" for one in differences[:EXAMPLES_SHOWN]]
    return with_rest(few, len(differences))
