"""Keep only the classes listed in ``--classes``, numbered in that order."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.annotations.coco_file import is_integer
from datasets.annotations.table_checks import TableChecks
from datasets.formats.text_files import read_names
from util.cli.suggestions import did_you_mean
from util.errors import UserError
from util.text import counted, first_of, shortened


def listed_classes(classes: str | Path | Sequence[str]) -> Sequence[str]:
    """Class names in the order of a list.

    Args:
        classes: path of a text file with one name per line, or the names.

    Raises:
        UserError: if the file cannot be read.
    """
    return read_names(Path(classes)) if isinstance(classes, str | Path) else classes


def keep_classes(
    data: dict[str, Any], names: Sequence[str], source: str | Path, image_set: str
) -> tuple[dict[str, Any], list[str]]:
    """Renumber the listed classes from 1, and drop objects of other classes.

    Args:
        data: COCO tables; rows with an invalid category id are kept for the checks.
        names: class names; their order gives the ids.
        source: file or folder of the tables, for messages.
        image_set: "train" or "val", for messages.

    Returns:
        The new tables, and sentences about unknown classes and dropped objects.

    Raises:
        UserError: if no class of the data is listed, or objects have an unknown category.
    """
    found = TableChecks(source)
    found.check_references("annotations", data["annotations"], "category_id", data["categories"])
    found.raise_if_any()
    known = {
        row["id"]: str(row.get("name", row["id"]))
        for row in data["categories"]
        if is_integer(row.get("id"))
    }
    unknown = [name for name in names if name not in known.values()]
    if len(unknown) == len(names):
        raise UserError(
            f"--classes: {source} has none of these classes; its classes are "
            f"{first_of(list(known.values()))}"
        )
    ids = {name: number for number, name in enumerate(names, start=1)}
    new_id = {number: ids.get(name) for number, name in known.items()}
    kept, dropped = [], Counter[str]()
    for row in data["annotations"]:
        number = row.get("category_id")
        if not is_integer(number):
            kept.append(row)
        elif new_id[number] is None:
            dropped[known[number]] += 1
        else:
            kept.append({**row, "category_id": new_id[number]})
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    tables = {**data, "annotations": kept, "categories": categories}
    return tables, _sentences(unknown, list(known.values()), dropped, source, image_set)


def _sentences(
    unknown: Sequence[str],
    known: Sequence[str],
    dropped: Counter[str],
    source: str | Path,
    image_set: str,
) -> list[str]:
    sentences = []
    if unknown:
        hints = [f"{shortened(name)}{did_you_mean(name, known)}" for name in unknown]
        examples = first_of(hints)
        sentences.append(f"Warning: --classes: {source} ({image_set}) does not have {examples}")
    if dropped:
        counts = [f"{name} {count}" for name, count in dropped.most_common()]
        sentences.append(
            f"--classes ({image_set}): {counted(dropped.total(), 'objects')} of other classes "
            f"ignored: {first_of(counts)}"
        )
    return sentences
