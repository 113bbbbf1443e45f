"""Padding of images to batches."""

import pytest
import torch

from util.nested_tensor import NestedTensor, collate_fn, nested_tensor_from_tensor_list


def images(*shapes):
    return [torch.rand(shape) for shape in shapes]


def test_images_stand_in_the_top_left_corner():
    batch = images((3, 4, 9), (3, 7, 2))
    nested = nested_tensor_from_tensor_list(batch)
    assert nested.tensors.shape == (2, 3, 7, 9) and nested.mask.dtype == torch.bool
    for image, padded, mask in zip(batch, nested.tensors, nested.mask, strict=True):
        _, height, width = image.shape
        assert torch.equal(padded[:, :height, :width], image)
        assert not mask[:height, :width].any()
        assert mask.sum() == mask.numel() - height * width
        assert padded.sum() == pytest.approx(float(image.sum()), rel=1e-5)


def test_a_tensor_is_a_list_of_images():
    stack = torch.rand(2, 3, 4, 5)
    nested = nested_tensor_from_tensor_list(stack)
    assert torch.equal(nested.tensors, stack) and not nested.mask.any()


def test_channel_counts_may_differ():
    nested = nested_tensor_from_tensor_list(
        [torch.ones(2, 3, 4, dtype=torch.uint8), torch.ones(1, 2, 2, dtype=torch.uint8)]
    )
    assert nested.tensors.dtype == torch.uint8
    assert nested.tensors.flatten(1).sum(1).tolist() == [24, 4]


def test_other_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"\(C, H, W\)"):
        nested_tensor_from_tensor_list([torch.rand(3, 4)])


def test_moving_keeps_tensors_and_a_missing_mask():
    nested = nested_tensor_from_tensor_list(images((3, 4, 4)))
    moved = nested.to("cpu")
    assert torch.equal(moved.tensors, nested.tensors) and torch.equal(moved.mask, nested.mask)
    assert NestedTensor(nested.tensors, None).to(torch.device("cpu")).mask is None
    assert moved.decompose()[0] is moved.tensors
    assert "(1, 3, 4, 4)" in repr(moved)


def test_collate_keeps_targets_in_order():
    first, second = images((3, 4, 9), (3, 7, 2))
    nested, targets = collate_fn([(first, {"a": 1}), (second, {"a": 2})])
    assert targets == ({"a": 1}, {"a": 2})
    assert nested.tensors.shape == (2, 3, 7, 9)
