"""Counts of a split."""

import numpy as np
import pytest

from datasets.check.split_statistics import Spread, count_by_size, unused_ids


def test_spread():
    assert Spread.of(iter([4, 1, 3, 2])) == (1, 2.5, 2.5, 3.97, 4)
    assert Spread.of([]) == (0, 0, 0, 0, 0)


def test_sizes_are_those_of_coco():
    areas = np.array([0, 32 * 31, 32 * 32, 96 * 95, 96 * 96, np.inf])
    assert count_by_size(areas) == {"small": 2, "medium": 2, "large": 2}
    assert count_by_size(np.zeros(0)) == {"small": 0, "medium": 0, "large": 0}


@pytest.mark.parametrize(
    ("used", "unused"), [([], []), ([0, 1], []), ([2, 5], [1, 3, 4]), ([-1, 0], [])]
)
def test_unused_ids(used, unused):
    assert list(unused_ids(used)) == unused


def test_unused_ids_of_an_absurd_id_take_no_memory():
    assert next(unused_ids([10**400])) == 1
