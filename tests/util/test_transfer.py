"""Copies to the device."""

import numpy as np
import pytest
import torch

from util.nested_tensor import NestedTensor
from util.transfer import to_device


@pytest.mark.parametrize("values", [np.arange(6).reshape(2, 3), torch.arange(6).view(2, 3)])
def test_values_arrive(values):
    copy = to_device(values, torch.device("cpu"))
    assert copy.tolist() == [[0, 1, 2], [3, 4, 5]] and copy.dtype == torch.int64


def test_a_batch_keeps_its_structure():
    samples = NestedTensor(torch.ones(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool))
    targets = ({"labels": torch.tensor([3]), "boxes": torch.ones(1, 4)},)
    copy, (target,) = to_device((samples, targets), torch.device("meta"))
    assert copy.tensors.shape == (1, 3, 2, 2) and copy.tensors.is_meta and copy.mask.is_meta
    assert list(target) == ["labels", "boxes"] and target["labels"].is_meta


@pytest.mark.cuda
def test_values_arrive_on_a_gpu():
    copy = to_device(np.arange(3), torch.device("cuda"))
    assert copy.device.type == "cuda" and copy.tolist() == [0, 1, 2]
