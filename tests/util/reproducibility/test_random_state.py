"""Random generators are put back exactly, also by way of a file."""

import random

import numpy as np
import pytest
import torch

from util.reproducibility.random_state import (
    random_state,
    seed_everything,
    seeded,
    set_random_state,
)


def draw():
    return random.random(), random.gauss(0, 1), float(np.random.randn()), float(torch.randn(()))


def test_a_state_that_went_through_a_file_continues_the_same(tmp_path):
    seed_everything(3)
    draw()  # leaves a second normal number in store
    torch.save(random_state(), tmp_path / "state.pth")
    expected = [draw() for _ in range(3)]
    seed_everything(4)
    set_random_state(torch.load(tmp_path / "state.pth", weights_only=True))
    assert [draw() for _ in range(3)] == expected


def test_seeded_block_leaves_no_trace():
    seed_everything(3)
    expected = [draw() for _ in range(2)]
    seed_everything(3)
    with seeded(7):
        inside = draw()
    assert [draw() for _ in range(2)] == expected
    with seeded(7):
        assert draw() == inside
    with pytest.raises(KeyError), seeded(7):
        raise KeyError
