"""Gather to rank 0, and broadcast from rank 0."""

from typing import Any

import pytest

from tests.distributed.processes import run_connected
from util.distributed.gathering import broadcast_object, gather_to_main
from util.distributed.processes import get_rank


def test_a_single_process_gathers_its_items() -> None:
    items = [{"a": 1}, "b"]
    gathered = gather_to_main(items)
    assert gathered == items and gathered is not items
    assert gather_to_main([]) == []
    assert broadcast_object(items) is items


def shares(sizes: list[int]) -> list[list[tuple[int, str]]]:
    """Items of each rank, of very different sizes."""
    return [[(rank, "x" * (7 * i * rank)) for i in range(size)] for rank, size in enumerate(sizes)]


SIZES = [[5, 0, 3], [0, 0, 0], [1, 7, 2]]


def gather_and_broadcast() -> Any:
    rank = get_rank()
    gathered = [
        gather_to_main(shares(sizes)[rank], items_per_round)
        for sizes in SIZES
        for items_per_round in (1, 4, 1000)
    ]
    return gathered, broadcast_object({"from": rank})


@pytest.mark.distributed
def test_rank_0_gets_all_items_in_order_of_rank(tmp_path: Any) -> None:
    (views,) = run_connected(gather_and_broadcast, tmp_path / "run", 3)
    expected = [
        [item for own in shares(sizes) for item in own] for sizes in SIZES for _ in range(3)
    ]
    assert views[0][0] == expected
    assert all(part == [] for gathered, _ in views[1:] for part in gathered)
    assert [broadcast for _, broadcast in views] == [{"from": 0}] * 3
