"""Batches by steps."""

import pytest
from torch import nn

from util.accumulation import Steps, unsynchronized


def batches(count):
    return [(f"images{i}", [{"image_id": 2 * i}, {"image_id": 2 * i + 1}]) for i in range(count)]


@pytest.mark.parametrize(("count", "size", "wanted"), [(6, 1, 6), (6, 3, 2), (7, 3, 2), (2, 3, 0)])
def test_every_batch_of_whole_steps_once(count, size, wanted):
    steps = list(Steps(batches(count), size))
    assert len(steps) == len(Steps(batches(count), size)) == wanted
    assert [batch for step, _ in steps for batch in step] == batches(wanted * size)
    for step, targets in steps:
        assert len(step) == size
        assert targets == [target for _, of_batch in step for target in of_batch]


def test_a_generator_is_fetched_step_by_step_and_has_no_length():
    fetched = []

    def one_by_one():
        for batch in batches(4):
            fetched.append(batch)
            yield batch

    steps = Steps(one_by_one(), 2)
    with pytest.raises(TypeError):
        len(steps)
    next(iter(steps))
    assert len(fetched) == 2


def test_a_single_process_has_nothing_to_synchronize():
    with unsynchronized(nn.Linear(1, 1)):
        pass
