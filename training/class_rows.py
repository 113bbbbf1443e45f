"""Which class each row of the class head stands for."""

from collections.abc import Mapping
from typing import Any

from datasets import annotated_category_ids
from datasets.annotations.run_classes import ClassTable, table_of_checkpoint, table_of_dataset
from datasets.annotations.wording import EXAMPLES_SHOWN, with_rest
from models.coco_categories import (
    CATEGORY_NAMES,
    RELEASED_NUM_CLASSES,
    THING_NAMES,
    default_num_classes,
)
from models.weights import model_state, num_classes_in_head
from util.category_ids import CategoryIds
from util.errors import UserError

# Kinds of data that have one row per class, also if ids without gaps begin at 1.
_ONE_ROW_PER_CLASS = ("data", "voc", "yolo")


def choose_category_ids(
    kind: str, num_classes: int | None, classes: ClassTable, largest_id: int
) -> CategoryIds:
    """Choose the rows of a new class head.

    Category ids are row numbers with ``--num_classes`` and for COCO's own classes; except with
    ``--data``, ``--voc_path`` or ``--yolo_path`` also for ids that fit the heads of the released
    models, and for ids without gaps from 0 or 1. Otherwise every class has one row, in the order
    of ids.

    Args:
        kind: of the data, see `datasets.build_data_kind`.
        num_classes: value of ``--num_classes``.
        classes: of training and validation data; without names every id has a row.
        largest_id: largest category id of the data.
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
    """The category ids of the class head in a checkpoint.

    Args:
        checkpoint: content of a file; files of the original hold no ids: row numbers are ids.
        num_classes: number of classes of the head.
        source: path of the file.

    Raises:
        UserError: the ids do not fit the head.
    """
    try:
        return CategoryIds.read(checkpoint.get("category_ids"), num_classes)
    except ValueError as error:
        raise UserError(f"{source}: {error}; load the file that main.py has written") from error


def class_of_row_in(checkpoint: Mapping[str, Any], source: str) -> dict[int, str]:
    """Class names by row of the class head in a checkpoint; empty if they are not known.

    Released files, which hold weights alone, have COCO's classes.

    Raises:
        UserError: as `category_ids_in`.
    """
    state = model_state(checkpoint, source)
    if not any(key.endswith("class_embed.bias") for key in state):
        return {}
    num_classes = num_classes_in_head(state, source)
    rows = category_ids_in(checkpoint, num_classes, source).row_of
    names = table_of_checkpoint(source, checkpoint).names
    if not names and "args" not in checkpoint:
        sizes = {size: kind for kind, size in RELEASED_NUM_CLASSES.items()}
        names = CATEGORY_NAMES.get(sizes.get(num_classes, ""), {})
    return {rows[i]: name for i, name in names.items() if i in rows}


def require_rows(dataset: Any, category_ids: CategoryIds, source: str) -> None:
    """Check that the class head of a checkpoint has a row for each class of the annotations.

    Args:
        dataset: training or validation data.
        category_ids: of the head.
        source: path of the checkpoint.

    Raises:
        UserError: names the classes without a row.
    """
    missing = sorted(annotated_category_ids(dataset) - category_ids.row_of.keys())
    if missing:
        table = table_of_dataset("", dataset)
        few = [
            f"id {table.text_ids.get(i, i)} ({table.names.get(i, i)})"
            for i in missing[:EXAMPLES_SHOWN]
        ]
        raise UserError(
            f"{dataset.ann_file} has objects of classes that the head in {source} lacks: "
            f"{with_rest(few, len(missing))}; start a new run from its weights with "
            f"--finetune {source}"
        )
