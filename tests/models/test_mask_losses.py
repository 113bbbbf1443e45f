"""Mask losses against sums over single pixels."""

import math

import pytest
import torch

from models.mask_losses import dice_loss, pad_masks, sigmoid_focal_loss


@pytest.fixture
def masks():
    """Logits and truth of 3 masks of 20 pixels."""
    torch.manual_seed(0)
    return torch.randn(3, 20).double(), (torch.rand(3, 20) > 0.6).double()


def test_dice_is_one_minus_f1_smoothed_by_a_pixel(masks):
    logits, truth = masks
    expected = 0.0
    for mask, true in zip(logits.sigmoid().tolist(), truth.tolist(), strict=True):
        overlap = sum(p * t for p, t in zip(mask, true, strict=True))
        expected += 1 - (2 * overlap + 1) / (sum(mask) + sum(true) + 1)
    assert float(dice_loss(logits, truth, 2.5)) == pytest.approx(expected / 2.5)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2), (-1, 2), (0.6, 1), (0.25, 0)])
def test_focal_loss_is_a_mean_over_pixels(masks, alpha, gamma):
    logits, truth = masks
    expected = 0.0
    for p, t in zip(logits.sigmoid().flatten().tolist(), truth.flatten().tolist(), strict=True):
        right = p if t else 1 - p
        weight = 1 if alpha < 0 else alpha if t else 1 - alpha
        expected -= weight * (1 - right) ** gamma * math.log(right) / 20
    assert float(sigmoid_focal_loss(logits, truth, 4, alpha, gamma)) == pytest.approx(expected / 4)


@pytest.mark.parametrize("loss", [dice_loss, sigmoid_focal_loss])
def test_no_masks_cost_nothing_and_give_gradients(loss):
    logits = torch.zeros(0, 20, requires_grad=True)
    value = loss(logits, torch.zeros(0, 20), 1.0)
    value.backward()
    assert float(value.detach()) == 0 and logits.grad.shape == (0, 20)


@pytest.mark.parametrize("loss", [dice_loss, sigmoid_focal_loss])
def test_losses_of_certain_masks_are_finite(loss):
    logits = torch.tensor([[1e4, -1e4, 1e4, -1e4]], requires_grad=True)
    value = loss(logits, torch.tensor([[1.0, 0.0, 0.0, 1.0]]), 1)
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


def test_perfect_masks_cost_nothing():
    truth = torch.tensor([[1.0, 0.0, 1.0]])
    logits = 200 * truth - 100
    assert float(dice_loss(logits, truth, 1)) == pytest.approx(0, abs=1e-6)
    assert float(sigmoid_focal_loss(logits, truth, 1)) == pytest.approx(0, abs=1e-6)


def test_masks_are_padded_to_the_largest_sides():
    padded = pad_masks([torch.ones(2, 3, 5), torch.ones(0, 6, 1), torch.ones(1, 2, 2)])
    assert padded.shape == (3, 6, 5) and padded.dtype == torch.uint8
    assert padded.sum((1, 2)).tolist() == [15, 15, 4]
    assert padded[2, :2, :2].all()
