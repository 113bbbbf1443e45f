"""Comparison of class tables: category ids and names of two splits, or of a checkpoint and data."""

from collections.abc import Mapping
from typing import NamedTuple


class Difference(NamedTuple):
    """A class that differs between two tables.

    Attributes:
        category_id: id of the class; of a name under two ids the id in the second table.
        detail: what the tables say, in words.
    """

    category_id: int
    detail: str


Labels = tuple[str, str]
Names = Mapping[int, str]


def name_conflicts(first: Names, second: Names, labels: Labels) -> list[Difference]:
    """Ids that have another name in each table, and names that have another id in each table.

    Args:
        first: class name of each category id.
        second: likewise, of the other table.
        labels: what messages call the tables, e.g. ("train", "val").
    """
    one, other = labels
    ids_in_first, ids_in_second = _ids_by_name(first), _ids_by_name(second)
    conflicts = []
    for number, name in second.items():
        earlier = ids_in_first.get(name, [])
        if number in first and first[number] != name:
            detail = f"in {one} {first[number]!r}, in {other} {name!r}"
            conflicts.append(Difference(number, detail))
        elif earlier and not set(earlier) & set(ids_in_second[name]):
            detail = f"{name!r} has id {earlier[0]} in {one}, {number} in {other}"
            conflicts.append(Difference(number, detail))
    return conflicts


def thing_conflicts(
    first: Mapping[int, bool], second: Mapping[int, bool], labels: Labels
) -> list[Difference]:
    """Ids that are a thing in one table and stuff in the other.

    Args:
        first: whether each category id is a thing.
        second: likewise, of the other table.
        labels: what messages call the tables.
    """
    kinds = {True: "thing", False: "stuff"}
    return [
        Difference(number, f"{kinds[first[number]]} in {labels[0]}, {kinds[flag]} in {labels[1]}")
        for number, flag in second.items()
        if number in first and first[number] != flag
    ]


def only_in(label: str, here: Names, there: Names) -> list[Difference]:
    """Classes whose id is in one table alone.

    Args:
        label: what messages call the table ``here``.
        here: class name of each category id.
        there: likewise, of the other table.
    """
    return [
        Difference(number, f"{name!r} in {label} only")
        for number, name in here.items()
        if number not in there
    ]


def _ids_by_name(names: Names) -> dict[str, list[int]]:
    ids: dict[str, list[int]] = {}
    for number, name in names.items():
        ids.setdefault(name, []).append(number)
    return ids
