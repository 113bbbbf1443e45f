"""The penalty for overlapping queries of one class, against naive loops."""

import pytest
import torch

from models.anchor.overlap import overlap_with_higher_scoring, penalize_overlap
from tests.models.anchor.small_anchor_models import batch, build_anchor_detr
from util.box_ops import box_cxcywh_to_xyxy, box_iou


def predictions(num_queries=8, num_classes=2):
    """Logits (2, 3, Q, K + 1) and boxes (2, 3, Q, 4), many of which overlap."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, num_queries, num_classes + 1, generator=generator)
    boxes = torch.rand(2, 3, num_queries, 4, generator=generator) * 0.2 + 0.4
    return logits, boxes


def naive_overlap(logits, boxes):
    """(Q,) of one image."""
    scores, labels = logits[:, :-1].max(-1)
    iou = box_iou(*[box_cxcywh_to_xyxy(boxes)] * 2)[0]
    found = torch.zeros(len(logits))
    for i in range(len(logits)):
        for j in range(len(logits)):
            if labels[i] == labels[j] and scores[j] > scores[i]:
                found[i] = max(found[i], iou[i, j])
    return found


def test_overlap_is_that_of_a_naive_loop():
    logits, boxes = predictions()
    found = overlap_with_higher_scoring(logits, boxes)
    rows = zip(logits.flatten(0, 1), boxes.flatten(0, 1), strict=True)
    expected = torch.stack([naive_overlap(*row) for row in rows]).view(2, 3, 8)
    assert torch.equal(found, expected)
    assert 0 < (found == 0).sum() < found.numel() / 2  # the best of each class; others overlap


def test_the_second_detection_of_an_object_gets_a_lower_score():
    box = [0.5, 0.5, 0.4, 0.4]
    boxes = torch.tensor([box, box, box, [0.1, 0.1, 0.1, 0.1]])
    logits = torch.tensor([[1.0, -9, 5], [2, -9, 5], [-9, 0, 5], [1, -9, 5]])
    expected = logits.clone()
    expected[0] -= 4  # the same class and box as the second query
    torch.testing.assert_close(penalize_overlap(logits, boxes, 4), expected)


def test_no_gradient_flows_through_the_overlap():
    logits, boxes = (tensor.requires_grad_() for tensor in predictions())
    penalize_overlap(logits, boxes, 4).sum().backward()
    assert boxes.grad is None and (logits.grad == 1).all()


@pytest.mark.parametrize("aux_loss", [True, False])
def test_a_model_with_penalty_has_other_logits_of_ordinary_queries_only(aux_loss):
    samples, targets = batch([2, 0, 3])
    found = []
    for penalty in (0, 3):
        model = build_anchor_detr(20, aux_loss=aux_loss, overlap_penalty=penalty).train()
        torch.manual_seed(0)
        found.append((model(samples, targets), model.state_dict().keys()))
    (without, keys), (with_penalty, same_keys) = found
    assert keys == same_keys
    layers = [without, *without.get("aux_outputs", [])]
    penalized = [with_penalty, *with_penalty.get("aux_outputs", [])]
    for before, after in zip(layers, penalized, strict=True):
        expected = penalize_overlap(before["pred_logits"], before["pred_boxes"], 3)
        assert torch.equal(after["pred_logits"], expected)
        assert not torch.equal(after["pred_logits"], before["pred_logits"])
        assert torch.equal(after["pred_boxes"], before["pred_boxes"])
    for name, value in without["denoising"].items():
        assert torch.equal(with_penalty["denoising"][name], value)
