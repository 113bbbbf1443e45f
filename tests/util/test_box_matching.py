import numpy as np
import pytest
from pycocotools import mask as rle_tools

from util.box_matching import iou_matrix, match_greedily


def boxes(number, seed):
    generator = np.random.default_rng(seed)
    return np.concatenate(
        [generator.uniform(0, 50, (number, 2)), generator.uniform(0, 40, (number, 2))], axis=1
    )


@pytest.mark.parametrize("over_first", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_iou_is_that_of_pycocotools(seed, over_first):
    first, second = boxes(7, seed), boxes(5, seed + 100)
    expected = rle_tools.iou(first, second, [over_first] * 5)
    np.testing.assert_allclose(iou_matrix(first, second, over_first), expected, atol=1e-12)


def test_iou_of_no_boxes_and_of_empty_boxes():
    assert iou_matrix([], []).shape == (0, 0)
    assert iou_matrix([], [[0, 0, 1, 1]]).shape == (0, 1)
    assert iou_matrix([[3, 3, 0, 0]], [[3, 3, 0, 0]]).tolist() == [[0]]
    assert iou_matrix([[3, 3, 0, 0]], [[0, 0, 9, 9]], over_first=True).tolist() == [[0]]


def naive_matches(iou, threshold):
    taken, matched = set(), []
    for row in iou:
        candidates = [
            (value, -index)
            for index, value in enumerate(row)
            if value >= threshold and index not in taken
        ]
        best = -max(candidates)[1] if candidates else -1
        matched.append(best)
        taken.add(best)
    return matched


@pytest.mark.parametrize("seed", range(20))
def test_matches_are_those_of_a_loop(seed):
    generator = np.random.default_rng(seed)
    iou = generator.uniform(0, 1, generator.integers(0, 6, 2))
    before = iou.copy()
    assert match_greedily(iou, 0.5).tolist() == naive_matches(iou.tolist(), 0.5)
    assert (iou == before).all()


def test_an_iou_at_the_threshold_is_a_match():
    assert match_greedily(np.array([[0.5]]), 0.5).tolist() == [0]
