"""Work divided among processes: the same results in the same order, errors, and dead processes."""

import multiprocessing
import os
import signal

import pytest

from util.system import forked
from util.system.forked import map_on_all_cores


@pytest.fixture(autouse=True)
def three_cores(monkeypatch):
    monkeypatch.setattr(forked, "_num_cores", lambda: 3)


@pytest.fixture(autouse=True)
def no_process_is_left():
    before = multiprocessing.active_children()  # DataLoader workers of other tests
    yield
    assert set(multiprocessing.active_children()) <= set(before)


def squares(indices):
    return [(index**2, os.getpid()) for index in indices]


@pytest.mark.parametrize(("length", "least", "processes"), [(10, 2, 3), (5, 2, 2), (3, 2, 1)])
def test_results_have_the_order_of_the_indices(length, least, processes):
    results = map_on_all_cores(squares, length, least)
    assert [square for square, _ in results] == [index**2 for index in range(length)]
    pids = {pid for _, pid in results}
    assert len(pids) == processes
    assert (os.getpid() in pids) == (processes == 1)


def test_nothing_to_do():
    assert map_on_all_cores(squares, 0, 1) == []


def test_an_exception_arrives_as_it_was_raised():
    def fails(indices):
        if 2 in indices:
            raise OSError(28, "No space left on device")
        return list(indices)

    with pytest.raises(OSError, match="No space left") as raised:
        map_on_all_cores(fails, 6, 1)
    assert raised.value.strerror == "No space left on device"


def test_a_killed_process_is_reported():
    def dies(indices):
        if 5 in indices:
            os.kill(os.getpid(), signal.SIGKILL)
        return list(indices)

    with pytest.raises(RuntimeError, match="died with exit status -9"):
        map_on_all_cores(dies, 6, 1)
