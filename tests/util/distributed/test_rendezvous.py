"""Attempts that share a store with keys of earlier attempts."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from util.distributed.launch import Launch
from util.distributed.rendezvous import attempt_store, join_attempt, open_attempt
from util.errors import ConnectionLostError

LONG = timedelta(seconds=30)


@pytest.fixture
def agent():
    """Environment of the workers of an agent that keeps a store."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    yield {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
    }
    del store


def launch(rank, world_size):
    return Launch("torchrun", rank, world_size, rank)


def attempt(environment, world_size, order=None):
    """Start the ranks in ``order``, and check that their stores share the same keys."""
    with ThreadPoolExecutor(world_size) as pool:
        futures = {
            rank: pool.submit(attempt_store, environment, launch(rank, world_size), LONG)
            for rank in order or range(world_size)
        }
        stores = [futures[rank].result(timeout=60) for rank in range(world_size)]
    assert not stores[0].check(["address"])
    for rank, store in enumerate(stores):
        store.set("address", str(rank))
        assert {other.get("address") for other in stores} == {str(rank).encode()}


def test_without_an_agent_there_is_no_shared_store():
    assert attempt_store({}, launch(0, 2), LONG) is None
    assert attempt_store({"TORCHELASTIC_USE_AGENT_STORE": "False"}, launch(0, 2), LONG) is None


def test_attempts_have_separate_keys(agent):
    for world_size, order in [(1, None), (3, None), (3, [2, 1, 0]), (2, [1, 0])]:
        attempt(agent, world_size, order)


def test_requests_of_lost_workers_are_harmless(agent):
    shared = dist.TCPStore("localhost", int(agent["MASTER_PORT"]), timeout=timedelta(seconds=0.3))
    rendezvous = dist.PrefixStore("detr_rendezvous", shared)
    for rank in (1, 2):  # their requests stay in the store
        with pytest.raises(dist.DistStoreError):
            join_attempt(rendezvous, rank)
    with pytest.raises(ConnectionLostError):
        open_attempt(rendezvous, 3, timedelta(seconds=0.2))
    attempt(agent, 3, [1, 0, 2])


def test_missing_ranks_are_named(agent):
    shared = dist.TCPStore("localhost", int(agent["MASTER_PORT"]), timeout=LONG)
    thread = threading.Thread(target=join_attempt, args=(dist.PrefixStore("m", shared), 2))
    thread.start()
    own = dist.TCPStore("localhost", int(agent["MASTER_PORT"]), timeout=LONG)
    with pytest.raises(ConnectionLostError, match=r"after 0.5 s: rank 1, 3 never connected"):
        open_attempt(dist.PrefixStore("m", own), 4, timedelta(seconds=0.5))
    thread.join(timeout=30)
    assert not thread.is_alive()
