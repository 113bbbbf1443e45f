"""Batches grouped by optimizer step."""

import pytest

from engine import Steps


def numbered_batches(count):
    return [(f"images{i}", [{"image_id": 2 * i}, {"image_id": 2 * i + 1}]) for i in range(count)]


@pytest.mark.parametrize(("count", "size", "wanted"), [(6, 1, 6), (6, 3, 2), (7, 3, 2), (2, 3, 0)])
def test_every_batch_of_whole_steps_once(count, size, wanted):
    steps = list(Steps(numbered_batches(count), size))
    assert len(steps) == len(Steps(numbered_batches(count), size)) == wanted
    assert [batch for step, _ in steps for batch in step] == numbered_batches(wanted * size)
    for step, targets in steps:
        assert len(step) == size
        assert targets == [target for _, of_batch in step for target in of_batch]


def test_a_generator_is_fetched_step_by_step_and_has_no_length():
    fetched = []

    def one_by_one():
        for batch in numbered_batches(4):
            fetched.append(batch)
            yield batch

    steps = Steps(one_by_one(), 2)
    with pytest.raises(TypeError):
        len(steps)
    next(iter(steps))
    assert len(fetched) == 2
