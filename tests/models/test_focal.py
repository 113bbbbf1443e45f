"""Focal loss for classes: matching cost, losses and their batched form, against naive loops."""

import math

import pytest
import torch

from models.criterion import SetCriterion
from models.detr import DETR
from models.focal import (
    FocalCriterion,
    FocalMatcher,
    focal_terms,
    iou_target_term,
    use_focal_scores,
)
from models.mask_losses import sigmoid_focal_loss
from models.matcher import Objects
from tests.models.small_models import build_segmenter
from tests.models.test_criterion import layered
from tests.models.test_matcher import case

NUM_CLASSES = 6
LOSSES = ["labels", "boxes", "cardinality"]
WEIGHTS = (2.0, 5.0, 2.0)


class LayerByLayer(FocalCriterion):
    """The same losses, but computed by the methods of one decoder layer."""

    def get_loss(self, *args, **kwargs):
        return super().get_loss(*args, **kwargs)


def build(kind=FocalCriterion, alpha=0.25, iou_targets=False):
    matcher = FocalMatcher(*WEIGHTS, alpha)
    return kind(NUM_CLASSES, matcher, {}, LOSSES, alpha, iou_targets).double()


def naive_cost(logits, label, alpha):
    p = float(torch.sigmoid(logits[label]))
    positive = -alpha * (1 - p) ** 2 * math.log(p)
    return positive + (1 - alpha) * p**2 * math.log(1 - p)


def test_terms_are_the_focal_loss_of_both_targets():
    logits = torch.randn(4, 7, dtype=torch.float64) * 5
    for target, term in zip((1.0, 0.0), focal_terms(logits, 0.3), strict=True):
        expected = sigmoid_focal_loss(logits, torch.full_like(logits, target), 1, alpha=0.3)
        assert float(term.mean(1).sum()) == pytest.approx(float(expected))


@pytest.mark.parametrize("value", [-1000.0, 1000.0])
def test_terms_and_gradients_of_extreme_logits_are_finite(value):
    logits = torch.full((3,), value, requires_grad=True)
    total = sum(term.sum() for term in focal_terms(logits, 0.25))
    total.backward()
    assert total.isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize("alpha", [0.25, 0.6])
def test_matching_cost_equals_naive_loops(alpha):
    outputs, targets = case(0, 5, [3, 0, 2])
    objects = Objects.from_targets(targets)
    matcher = FocalMatcher(1, 0, 0, alpha)
    cost = matcher._costs_on_host(
        outputs["pred_logits"][None], outputs["pred_boxes"][None], objects
    )[0]
    number = 0
    for image, target in enumerate(targets):
        for label in target["labels"].tolist():
            for query in range(5):
                expected = naive_cost(outputs["pred_logits"][image, query], label, alpha)
                assert cost[number, query] == pytest.approx(expected)
            number += 1


@pytest.mark.parametrize(("cost_class", "matched"), [(1, 0), (4, 1)])
def test_a_large_class_cost_matches_the_higher_score_of_two_similar_boxes(cost_class, matched):
    """What --set_cost_class 4 changes in configs/shapes_fast.txt, see docs/convergence.md."""
    boxes = torch.tensor([[[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.43, 0.4]]])  # exact, and 0.93 IoU
    outputs = {"pred_logits": torch.tensor([0.4, 0.5]).logit().view(1, 2, 1), "pred_boxes": boxes}
    targets = [{"labels": torch.tensor([0]), "boxes": boxes[0, :1]}]
    ((query, _),) = FocalMatcher(cost_class, 5, 2)(outputs, targets)
    assert query.tolist() == [matched]


def naive_iou(a, b):
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.tolist(), b.tolist()
    across = min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2)
    down = min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2)
    intersection = max(across, 0) * max(down, 0)
    return intersection / (aw * ah + bw * bh - intersection)


def naive_iou_term(logit, box, target_box):
    p = float(torch.sigmoid(logit))
    target = max(p**0.25 * naive_iou(box, target_box) ** 0.75, 0.01)
    return -target * math.log(p) - (1 - target) * math.log(1 - p)


@pytest.mark.parametrize("counts", [[2, 0, 3], [5]])
def test_loss_with_iou_targets_equals_naive_loops(counts):
    outputs, targets = case(1, 7, counts)
    criterion = build(iou_targets=True)
    total = 0.0
    for image, (queries, objects) in enumerate(criterion.matcher(outputs, targets)):
        found = dict(zip(queries.tolist(), objects.tolist(), strict=True))
        for query in range(7):
            for row, logit in enumerate(outputs["pred_logits"][image, query, :-1]):
                number = found.get(query)
                if number is not None and targets[image]["labels"][number] == row:
                    box = outputs["pred_boxes"][image, query]
                    total += naive_iou_term(logit, box, targets[image]["boxes"][number])
                else:
                    p = float(logit.sigmoid())
                    total -= 0.75 * p**2 * math.log(1 - p)
    assert float(criterion(outputs, targets)["loss_ce"]) == pytest.approx(total / 5)


def test_iou_targets_train_scores_towards_the_iou_and_do_not_move_boxes():
    objects = torch.tensor([[0.5, 0.5, 0.4, 0.4]]).expand(3, 4)
    boxes = objects * torch.tensor([[1.0], [1.1], [1.5]])  # the IoU falls
    boxes.requires_grad_()
    logits = torch.zeros(3, requires_grad=True)
    iou_target_term(logits, boxes, objects).sum().backward()
    assert boxes.grad is None
    assert (logits.grad.diff() > 0).all()  # better boxes get higher scores


@pytest.mark.parametrize("value", [-1000.0, 1000.0])
def test_iou_targets_of_extreme_logits_and_separate_boxes_are_finite(value):
    logits = torch.full((2,), value, requires_grad=True)
    boxes = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.2, 0.2, 0.0, 0.0]])
    term = iou_target_term(logits, boxes, torch.tensor([[0.8, 0.8, 0.1, 0.1]]))
    term.sum().backward()
    assert term.isfinite().all() and logits.grad.isfinite().all()


@pytest.mark.parametrize("alpha", [0.25, 0.6])
def test_classification_loss_equals_naive_loops(alpha):
    outputs, targets = case(1, 7, [2, 0, 3])
    criterion = build(alpha=alpha)
    losses = criterion(outputs, targets)
    matched = criterion.matcher(outputs, targets)
    total = 0.0
    for image, (queries, objects) in enumerate(matched):
        labels = dict(
            zip(queries.tolist(), targets[image]["labels"][objects].tolist(), strict=True)
        )
        for query in range(7):
            for row in range(NUM_CLASSES):  # the last logit, no-object, is not read
                p = float(outputs["pred_logits"][image, query, row].sigmoid())
                if labels.get(query) == row:
                    total -= alpha * (1 - p) ** 2 * math.log(p)
                else:
                    total -= (1 - alpha) * p**2 * math.log(1 - p)
    assert float(losses["loss_ce"]) == pytest.approx(total / 5)


@pytest.mark.parametrize("counts", [[3, 0, 1, 6], [9, 2, 0], [1], [0, 0]])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("iou_targets", [False, True])
def test_all_layers_at_once_equal_layer_by_layer(counts, num_layers, iou_targets):
    outputs, targets, leaves = layered(sum(counts), 5, counts, num_layers)
    kinds = FocalCriterion, LayerByLayer
    batched, single = (build(kind, iou_targets=iou_targets)(outputs, targets) for kind in kinds)
    assert batched.keys() == single.keys()
    for name in batched:
        assert torch.allclose(batched[name], single[name]), name
    sums = [sum(v for k, v in losses.items() if "loss" in k) for losses in (batched, single)]
    for a, b in zip(*(torch.autograd.grad(total, leaves) for total in sums), strict=True):
        assert torch.allclose(a, b)


def test_the_no_object_row_is_not_trained():
    outputs, targets, leaves = layered(0, 5, [3, 2], 2)
    losses = build()(outputs, targets)
    loss = losses["loss_ce"] + losses["loss_ce_0"]
    gradients = [g for g in torch.autograd.grad(loss, leaves, allow_unused=True) if g is not None]
    assert gradients
    for gradient in gradients:
        assert (gradient[..., -1] == 0).all() and (gradient[..., :-1] != 0).all()


def test_cardinality_counts_queries_with_a_score_above_one_half():
    outputs, targets = case(0, 4, [3, 1])
    outputs["pred_logits"].fill_(-1)
    outputs["pred_logits"][0, :2, 1] = 1
    outputs["pred_logits"][:, :, -1] = 5
    assert float(build()(outputs, targets)["cardinality_error"]) == pytest.approx(1)


def test_class_error_is_of_object_classes():
    outputs, targets = case(0, 4, [3])
    outputs["pred_logits"][..., -1] = 100  # no-object
    for query, target in zip(*build().matcher(outputs, targets)[0], strict=True):
        outputs["pred_logits"][0, query, targets[0]["labels"][target]] = 50
    assert float(build()(outputs, targets)["class_error"]) == 0


def test_subclasses_override_the_batched_form():
    class Other(FocalCriterion):
        def loss_labels(self, *args, **kwargs):
            return {"loss_ce": torch.zeros(())}

    assert float(build(Other)(*case(0, 4, [3]))["loss_ce"]) == 0
    assert issubclass(FocalCriterion, SetCriterion)


def test_initial_scores_are_low():
    detr: DETR = build_segmenter().detr
    use_focal_scores(detr)
    assert detr.cls_loss == "focal"
    assert torch.allclose(detr.class_embed.bias.sigmoid(), torch.tensor(0.01))
