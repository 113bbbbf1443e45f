"""Losses of denoising queries against naive loops."""

import pytest
import torch

from models.anchor.denoising_losses import denoising_name
from models.criterion import SetCriterion
from models.focal import FocalCriterion, FocalMatcher
from models.matcher import HungarianMatcher
from tests.models.test_matcher import case
from util.box_ops import box_cxcywh_to_xyxy, elementwise_generalized_box_iou

NUM_CLASSES, LAYERS, GROUPS = 6, 3, 2


def build(cls_loss):
    losses = ["labels", "boxes", "cardinality"]
    if cls_loss == "focal":
        return FocalCriterion(NUM_CLASSES, FocalMatcher(2, 5, 2), {}, losses).double()
    return SetCriterion(NUM_CLASSES, HungarianMatcher(1, 5, 2), {}, 0.1, losses).double()


def outputs_for(counts):
    outputs, targets = case(0, 7, counts)
    torch.manual_seed(4)
    shape = LAYERS, GROUPS * sum(counts)
    outputs["denoising"] = {
        "pred_logits": torch.randn(*shape, NUM_CLASSES + 1, dtype=torch.float64),
        "pred_boxes": torch.rand(*shape, 4, dtype=torch.float64) * 0.5 + 0.1,
    }
    return outputs, targets


@pytest.mark.parametrize("cls_loss", ["ce", "focal"])
@pytest.mark.parametrize("counts", [[2, 0, 3], [1, 1]])
def test_losses_equal_naive_loops(cls_loss, counts):
    outputs, targets = outputs_for(counts)
    losses = build(cls_loss)(outputs, targets)
    labels = torch.cat([t["labels"] for t in targets])
    boxes = torch.cat([t["boxes"] for t in targets])
    for layer in range(LAYERS):
        suffix = "_dn" if layer == LAYERS - 1 else f"_dn_{layer}"
        found = outputs["denoising"]
        entropy = distance = giou_loss = focal = 0.0
        for number in range(GROUPS * sum(counts)):
            label, box = labels[number % sum(counts)], boxes[number % sum(counts)]
            logits = found["pred_logits"][layer, number]
            predicted = found["pred_boxes"][layer, number]
            entropy -= logits.log_softmax(-1)[label]
            distance += (predicted - box).abs().sum()
            pair = box_cxcywh_to_xyxy(predicted), box_cxcywh_to_xyxy(box)
            giou_loss += 1 - elementwise_generalized_box_iou(*pair)
            for row, p in enumerate(logits[:-1].sigmoid()):
                is_label = row == label
                loss = -0.25 * (1 - p) ** 2 * p.log() if is_label else 0
                focal += loss if is_label else -0.75 * p**2 * (1 - p).log()
        num_boxes = GROUPS * sum(counts)
        expected_ce = focal if cls_loss == "focal" else entropy  # cross-entropy: mean of the pairs
        assert losses[f"loss_ce{suffix}"] == pytest.approx(float(expected_ce / num_boxes))
        assert losses[f"loss_bbox{suffix}"] == pytest.approx(float(distance / num_boxes))
        assert losses[f"loss_giou{suffix}"] == pytest.approx(float(giou_loss / num_boxes))


@pytest.mark.parametrize("cls_loss", ["ce", "focal"])
def test_a_batch_without_objects_has_the_same_losses_all_zero(cls_loss):
    names = build(cls_loss)(*outputs_for([2, 1])).keys()
    losses = build(cls_loss)(*outputs_for([0, 0]))
    assert losses.keys() == names
    for name, value in losses.items():
        assert value.isfinite()
        assert "_dn" not in name or value == 0


def test_the_divisor_is_the_given_number_of_boxes_times_the_groups():
    outputs, targets = outputs_for([2, 1])
    criterion = build("focal")
    one, two = (criterion(outputs, targets, num_boxes=n) for n in (1.0, 2.0))
    for name in ("loss_ce_dn", "loss_bbox_dn_0", "loss_giou_dn"):
        assert one[name] == pytest.approx(float(two[name] * 2))


def test_names_of_losses():
    assert [denoising_name(name) for name in ("loss_giou", "loss_giou_4")] == [
        "loss_giou_dn",
        "loss_giou_dn_4",
    ]
