"""Padded pixels counted and estimated, and what --group_aspect needs to know."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datasets.loading.byte_images import ByteImages, Normalization
from datasets.loading.padding_share import PaddingCounter, aspect_ratios, estimated_share
from util.errors import UserError
from util.nested_tensor import nested_tensor_from_tensor_list

SIZES_HW = [(4, 10), (8, 5), (6, 6)]


def test_padded_pixels_of_both_kinds_of_batches():
    counted = [PaddingCounter(), PaddingCounter()]
    images = [torch.zeros(3, *size, dtype=torch.uint8) for size in SIZES_HW]
    counted[0].add(ByteImages(images, Normalization([0] * 3, [1] * 3)))
    counted[1].add(nested_tensor_from_tensor_list(images))
    for padding in counted:
        assert padding.total == 3 * 8 * 10
        assert padding.padded == 240 - 40 - 40 - 36


def test_shares_of_several_batches_are_weighted_by_their_pixels():
    padding = PaddingCounter()
    assert padding.share is None
    padding.add_sizes([(10, 10)])
    padding.add_sizes([(10, 10), (5, 10)])
    assert padding.share == 50 / 300


def test_equal_images_need_no_padding_and_different_ones_do():
    sizes = np.array([[640, 480], [640, 480], [480, 640]])
    assert estimated_share(sizes, [[0, 1]], [800], 1333) == 0
    # 1066 x 800 and 800 x 1066 in 1066 x 1066
    assert estimated_share(sizes, [[0, 2]], [800], 1333) == pytest.approx(1 - 800 / 1066)
    assert 0 < estimated_share(sizes, [[0, 1]] * 9, [480, 800], 1333) < 0.4


def test_aspect_ratios_are_width_by_height():
    dataset = SimpleNamespace(sizes_wh=np.array([[640, 480], [100, 200]]))
    assert aspect_ratios(dataset).tolist() == [640 / 480, 0.5]


def test_missing_sizes_are_named():
    sizes = np.array([[640, 480], [0, 0], [0, 5]])
    dataset = SimpleNamespace(sizes_wh=sizes, ann_file="a.json", ids=[3, 7, 9])
    with pytest.raises(UserError, match=r"--group_aspect: a.json lacks .* image id 7 \(2 of 3"):
        aspect_ratios(dataset)
    with pytest.raises(UserError, match="the SimpleNamespace has no sizes"):
        aspect_ratios(SimpleNamespace())
