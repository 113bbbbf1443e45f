"""Boxes against slow, obvious versions, and at the edges."""

import numpy as np
import pytest
import torch

from util.box_ops import (
    box_cxcywh_to_xyxy,
    box_iou,
    box_xyxy_to_cxcywh,
    elementwise_box_iou,
    elementwise_generalized_box_iou,
    generalized_box_iou,
    masks_to_boxes,
)


def random_boxes(count, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(count, 2, generator=generator, dtype=dtype) * 50
    return torch.cat(
        (start, start + torch.rand(count, 2, generator=generator, dtype=dtype) * 40), 1
    )


def giou_of_two(a, b):
    def area(x0, y0, x1, y1):
        return max(x1 - x0, 0) * max(y1 - y0, 0)

    intersection = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a) + area(*b) - intersection
    hull = area(min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
    return intersection / union, intersection / union - (hull - union) / hull


def test_conversions_are_inverse():
    boxes = random_boxes(20, 0)
    assert torch.allclose(box_cxcywh_to_xyxy(box_xyxy_to_cxcywh(boxes)), boxes)
    assert box_cxcywh_to_xyxy(torch.tensor([5.0, 6.0, 4.0, 2.0])).tolist() == [3, 5, 7, 7]
    assert box_xyxy_to_cxcywh(torch.zeros(0, 4)).shape == (0, 4)


def test_iou_and_giou_equal_a_loop():
    a, b = random_boxes(7, 1), random_boxes(5, 2)
    expected = np.array([[giou_of_two(x, y) for y in b.tolist()] for x in a.tolist()])
    assert np.allclose(box_iou(a, b)[0], expected[..., 0])
    assert np.allclose(generalized_box_iou(a, b), expected[..., 1])
    assert torch.equal(elementwise_generalized_box_iou(a[:5], b), generalized_box_iou(a, b).diag())
    assert torch.equal(elementwise_box_iou(a[:5], b), box_iou(a, b)[0].diag())


def test_giou_is_bounded_symmetric_and_one_for_equal_boxes():
    a, b = random_boxes(50, 3), random_boxes(50, 4)
    giou = generalized_box_iou(a, b)
    assert (giou > -1).all() and (giou <= 1).all()
    assert torch.allclose(giou, generalized_box_iou(b, a).T)
    assert torch.allclose(generalized_box_iou(a, a).diag(), torch.ones(50, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "other", [[5.0, 5, 5, 9], [5.0, 5, 5, 5], [0.0, 0, 10, 10], [7.0, 7, 7, 7]]
)
def test_boxes_without_area_give_finite_values_and_gradients(dtype, other):
    flat = torch.tensor([[5.0, 5, 5, 9]], dtype=dtype, requires_grad=True)
    giou = elementwise_generalized_box_iou(flat, torch.tensor([other], dtype=dtype))
    giou.sum().backward()
    assert giou.isfinite().all() and flat.grad.isfinite().all()
    assert (giou >= -1).all() and (giou <= 1).all()


@pytest.mark.parametrize("bad", [[5.0, 5, 1, 9], [5.0, 9, 6, 8], [0.0, 0, float("nan"), 1]])
def test_what_is_no_box_is_named(bad):
    boxes = torch.tensor([[0.0, 0, 1, 1], bad])
    with pytest.raises(ValueError, match=r"boxes2\[1\]"):
        generalized_box_iou(boxes[:1], boxes)


def test_masks_to_boxes_equals_a_loop():
    generator = torch.Generator().manual_seed(5)
    masks = torch.rand(8, 13, 17, generator=generator) > 0.97
    masks[0] = False
    masks[1] = True
    masks[2] = False
    masks[2, 12, 16] = True
    for mask, box in zip(masks, masks_to_boxes(masks).tolist(), strict=True):
        rows, columns = np.nonzero(mask.numpy())
        inside = [columns.min(), rows.min(), columns.max(), rows.max()] if len(rows) else [0] * 4
        assert box == inside
    for same in (masks.to(torch.uint8), 255 * masks.to(torch.uint8), masks.float(), -masks.long()):
        assert torch.equal(masks_to_boxes(same), masks_to_boxes(masks))
    assert masks_to_boxes(torch.zeros(0, 4, 5)).shape == (0, 4)
