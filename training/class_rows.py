"""Mapping between rows of the classification head and category ids."""

from collections.abc import Mapping
from typing import Any

from datasets import annotated_category_ids
from datasets.annotations.class_tables import (
    ClassTable,
    table_of_checkpoint,
    table_of_dataset,
    warn_of_unnamed_classes,
)
from models.released.coco_categories import (
    CATEGORY_NAMES,
    RELEASED_NUM_CLASSES,
    THING_NAMES,
    default_num_classes,
)
from models.released.zoo import released_by_file
from models.weights import model_state, num_classes_in_head
from util.category_ids import CategoryIds
from util.errors import UserError
from util.text import first_of

# Datasets that always get one row per class, even if their ids are 1, 2, 3, …
_ONE_ROW_PER_CLASS = ("data", "voc", "yolo")


def choose_category_ids(
    kind: str, num_classes: int | None, classes: ClassTable, largest_id: int
) -> CategoryIds:
    """Choose the rows of a new classification head.

    The row number equals the category id in these cases:

    - with ``--num_classes``, and for COCO's own classes;
    - without ``--data``, ``--voc_path`` and ``--yolo_path``, also for ids that fit the head of a
      released model and for ids without gaps from 0 or 1.

    Otherwise there is one row per class, sorted by category id.

    Args:
        kind: kind of data, see `datasets.build_data_kind`.
        num_classes: value of ``--num_classes``.
        classes: classes of training and validation data; without names every id gets a row.
    """
    names, dense = classes.names, kind in _ONE_ROW_PER_CLASS
    if dense and names.items() <= THING_NAMES.items():
        kind = "coco"
    num_ids = num_classes or default_num_classes(kind, largest_id)
    ids_are_rows = (
        num_classes is not None
        or largest_id not in names  # the data does not list its classes
        or num_ids == RELEASED_NUM_CLASSES.get(kind)
        or (len(names) >= largest_id and not dense)
    )
    rows = range(num_ids) if ids_are_rows else sorted(names)
    return CategoryIds(tuple(classes.text_ids.get(i, i) for i in rows))


def category_ids_in(checkpoint: Mapping[str, Any], num_classes: int, source: str) -> CategoryIds:
    """Read the category ids of the classification head in a checkpoint.

    Args:
        checkpoint: content of a file; without stored ids (original), row numbers are the ids.

    Raises:
        UserError: if the ids do not match the head.
    """
    try:
        return CategoryIds.read(checkpoint.get("category_ids"), num_classes)
    except ValueError as error:
        raise UserError(f"{source}: {error}; use a file written by main.py") from error


def class_of_row_in(checkpoint: Mapping[str, Any], source: str) -> dict[int, str]:
    """Class names by row of the classification head in a checkpoint; empty if unknown.

    Raises:
        UserError: if the category ids do not match the head.
    """
    state = model_state(checkpoint, source)
    if not any(key.endswith("class_embed.bias") for key in state):
        return {}
    rows = category_ids_in(checkpoint, num_classes_in_head(state, source), source).row_of
    names = _likely_names(checkpoint, source)
    return {rows[i]: name for i, name in names.items() if i in rows}


def class_names_in(
    checkpoint: Mapping[str, Any], source: str, keeps_classes: bool = True
) -> Mapping[int, str]:
    """Class names by category id in a checkpoint; empty if unknown.

    Released files, which are recognized by their names, have COCO's classes.

    Args:
        keeps_classes: whether the classes of the head are used as they are. False: it is trained on
            other classes, as with the original's ``--resume``; COCO's names do not matter then.
    """
    names = table_of_checkpoint(source, checkpoint).names
    released = None if names or not keeps_classes else released_by_file(source)
    return names if released is None else released.category_names


def _likely_names(checkpoint: Mapping[str, Any], source: str) -> Mapping[int, str]:
    """`class_names_in`, or COCO's names for weights without flags and with a head of its size."""
    names = class_names_in(checkpoint, source)
    if names or "args" in checkpoint:
        return names
    num_classes = num_classes_in_head(model_state(checkpoint, source), source)
    sizes = {size: kind for kind, size in RELEASED_NUM_CLASSES.items()}
    return CATEGORY_NAMES.get(sizes.get(num_classes, ""), {})


def with_class_names(
    checkpoint: Mapping[str, Any], source: str, dataset: Any, keeps_classes: bool
) -> dict[str, Any]:
    """Content of a checkpoint with the names of `class_names_in` as ``categories``.

    COCO's names are omitted for classes that have no name in the data. If the head may or may not
    have COCO's classes, contradicting data causes a warning.
    """
    if table_of_checkpoint(source, checkpoint).names:
        return dict(checkpoint)
    of_data = getattr(dataset, "categories", {})
    names = class_names_in(checkpoint, source, keeps_classes)
    if not names and keeps_classes:
        warn_of_unnamed_classes(_likely_names(checkpoint, source), of_data, source)
    named = {i: name for i, name in names.items() if of_data.get(i) != str(i)}
    return {**checkpoint, "categories": named}


def require_rows(dataset: Any, category_ids: CategoryIds, source: str) -> None:
    """Check that the classification head of a checkpoint has a row for each annotated class.

    Args:
        dataset: training or validation data.

    Raises:
        UserError: if classes have no row; the message lists them.
    """
    missing = sorted(annotated_category_ids(dataset) - category_ids.row_of.keys())
    if missing:
        table = table_of_dataset("", dataset)
        classes = [f"id {table.text_ids.get(i, i)} ({table.names.get(i, i)})" for i in missing]
        raise UserError(
            f"{dataset.ann_file} has objects of classes that the head in {source} does not have: "
            f"{first_of(classes)}; start a new run from its weights with "
            f"--finetune {source}"
        )
