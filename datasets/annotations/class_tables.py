"""Compare the category ids and class names of two splits, or of a checkpoint and a dataset."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Difference(NamedTuple):
    """A class that differs between two tables.

    Attributes:
        category_id: category id (in the second table, if the ids differ).
        detail: the difference in words.
    """

    category_id: int
    detail: str


Labels = tuple[str, str]
Names = Mapping[int, str]


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


def similar_names(names: Iterable[str]) -> list[list[str]]:
    """Find different names that are equal but for case and spaces, such as Cat and cat.

    Returns:
        groups of two or more names, each sorted.
    """
    groups: dict[str, set[str]] = {}
    for name in names:
        groups.setdefault(" ".join(name.casefold().split()), set()).add(name)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def _ids_by_name(names: Names) -> dict[str, list[int]]:
    ids: dict[str, list[int]] = {}
    for number, name in names.items():
        ids.setdefault(name, []).append(number)
    return ids
