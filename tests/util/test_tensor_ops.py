"""util/tensor_ops.py against slow versions of the same, and on empty input."""

import numpy as np
import pytest
import torch

from util.nested_tensor import NestedTensor
from util.tensor_ops import accuracy, interpolate, to_device


def slow_accuracy(output: torch.Tensor, target: torch.Tensor, k: int) -> float:
    hits = 0
    for scores, expected in zip(output.tolist(), target.tolist(), strict=True):
        ranking = sorted(range(len(scores)), key=lambda index: -scores[index])
        hits += expected in ranking[:k]
    return 100 * hits / len(target)


@pytest.mark.parametrize("topk", [(1,), (1, 2, 5), (3, 1)])
def test_accuracy_is_the_share_of_hits(topk):
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(40, 6, generator=generator)
    target = torch.randint(0, 6, (40,), generator=generator)
    got = [value.item() for value in accuracy(output, target, topk)]
    assert got == pytest.approx([slow_accuracy(output, target, k) for k in topk])


def test_accuracy_of_nothing_is_zero_for_each_k():
    nothing = accuracy(torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64), topk=(1, 5))
    assert [value.item() for value in nothing] == [0.0, 0.0]


def test_accuracy_allows_more_guesses_than_classes():
    assert accuracy(torch.eye(2), torch.tensor([1, 1]), topk=(1, 5))[1].item() == 100


def test_interpolate_repeats_the_nearest_pixel():
    image = torch.arange(6.0).reshape(1, 1, 2, 3)
    doubled = interpolate(image, scale_factor=2)
    assert torch.equal(doubled[0, 0], image[0, 0].repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_interpolate_keeps_corners_on_request():
    image = torch.tensor([[[[0.0, 1.0]]]])
    between = interpolate(image, size=(1, 3), mode="bilinear", align_corners=True)
    assert between.flatten().tolist() == pytest.approx([0.0, 0.5, 1.0])


@pytest.mark.parametrize("batch_and_channels", [(0, 3), (2, 0), (0, 0)])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_interpolate_of_an_empty_batch_has_the_new_size(batch_and_channels, mode):
    empty = torch.zeros(*batch_and_channels, 7, 5)
    assert interpolate(empty, size=(4, 12), mode=mode).shape == (*batch_and_channels, 4, 12)
    assert interpolate(empty, scale_factor=2.0, mode=mode).shape == (*batch_and_channels, 14, 10)


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
