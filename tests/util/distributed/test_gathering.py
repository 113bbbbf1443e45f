"""Gather to rank 0, and broadcast from rank 0."""

from typing import Any

import pytest
import torch

from tests.distributed.processes import run_connected
from util.distributed.data_parallel import mean_number_of_objects
from util.distributed.gathering import (
    broadcast_object,
    broadcast_tensors,
    decide_on_main,
    gather_by_id,
    gather_to_main,
)
from util.distributed.processes import get_rank
from util.errors import UserError


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
    tensors = [torch.full((2, 3), rank + 0.5), torch.tensor(rank), torch.full((4,), rank + 0.25)]
    broadcast_tensors(tensors)
    return {
        "gathered": gathered,
        "object": broadcast_object({"from": rank}),
        "tensors": tensors,
        "by id": gather_by_id({9 - rank: f"image of {rank}", 5: f"shared {rank}"}),
        "decided": decide_on_main(lambda: f"by {rank}"),
        "refused": refusal(),
        "objects": mean_number_of_objects((4, 5, 7)[rank], CPU, 4),
        "few objects": mean_number_of_objects(rank, CPU, 7),
    }


CPU = torch.device("cpu")


def refusal() -> str:
    def refuse() -> None:
        raise UserError("no such file")

    try:
        decide_on_main(refuse)
    except UserError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def views(tmp_path_factory: Any) -> Any:
    (views,) = run_connected(gather_and_broadcast, tmp_path_factory.mktemp("three") / "run", 3)
    return views


@pytest.mark.distributed
def test_rank_0_gets_all_items_in_order_of_rank(views: Any) -> None:
    expected = [
        [item for own in shares(sizes) for item in own] for sizes in SIZES for _ in range(3)
    ]
    assert views[0]["gathered"] == expected
    assert all(part == [] for view in views[1:] for part in view["gathered"])


@pytest.mark.distributed
def test_all_ranks_get_the_values_of_rank_0(views: Any) -> None:
    for view in views:
        floats, integer, others = view["tensors"]
        assert (floats == 0.5).all() and integer == 0 and (others == 0.25).all()
        assert floats.shape == (2, 3) and integer.dtype == torch.int64
        assert view["object"] == {"from": 0}


@pytest.mark.distributed
def test_results_of_images_are_sorted_and_those_of_the_first_rank_count(views: Any) -> None:
    expected = {5: "shared 0", 7: "image of 2", 8: "image of 1", 9: "image of 0"}
    assert list(views[0]["by id"].items()) == list(expected.items())
    assert [view["by id"] for view in views[1:]] == [{}, {}]


@pytest.mark.distributed
def test_rank_0_decides_for_all_and_its_error_is_raised_by_all(views: Any) -> None:
    assert [view["decided"] for view in views] == ["by 0"] * 3
    assert [view["refused"] for view in views] == ["no such file"] * 3


@pytest.mark.distributed
def test_objects_are_averaged_over_ranks_and_batches(views: Any) -> None:
    for view in views:
        assert float(view["objects"]) == 16 / (4 * 3)  # in float64
        assert view["few objects"] == 1
