"""Copies to the device."""

import numpy as np
import pytest
import torch

from util.transfer import to_device


@pytest.mark.parametrize("values", [np.arange(6).reshape(2, 3), torch.arange(6).view(2, 3)])
def test_values_arrive(values):
    copy = to_device(values, torch.device("cpu"))
    assert copy.tolist() == [[0, 1, 2], [3, 4, 5]] and copy.dtype == torch.int64


@pytest.mark.cuda
def test_values_arrive_on_a_gpu():
    copy = to_device(np.arange(3), torch.device("cuda"))
    assert copy.device.type == "cuda" and copy.tolist() == [0, 1, 2]
