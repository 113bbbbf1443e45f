"""Losses and their gradients against the original's algorithm."""

import pytest
import torch

from benchmarks.original import criterion as oracle_criterion
from models.criterion import SetCriterion, mean_number_of_objects
from models.matcher import HungarianMatcher
from tests.models.test_matcher import WEIGHTS, case

NUM_CLASSES = 6
LOSS_WEIGHTS = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
TERMS = ["labels", "boxes", "cardinality"]


def build(terms=TERMS, eos_coef=0.1):
    return SetCriterion(NUM_CLASSES, HungarianMatcher(*WEIGHTS), LOSS_WEIGHTS, eos_coef, terms)


def layered(seed, num_queries, counts, num_layers, dtype=torch.float64):
    """Outputs of several decoder layers whose tensors ask for gradients, and targets."""
    layers = [case(seed + i, num_queries, counts, dtype=dtype)[0] for i in range(num_layers)]
    leaves = [value.requires_grad_() for layer in layers for value in layer.values()]
    return {**layers[-1], "aux_outputs": layers[:-1]}, case(seed, num_queries, counts)[1], leaves


def total(losses):
    return sum(v * LOSS_WEIGHTS[k.rstrip("_0123456789")] for k, v in losses.items() if "loss" in k)


@pytest.mark.parametrize("counts", [[3, 0, 1, 6], [9, 2, 0], [5, 5], [1]])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_losses_and_gradients_equal_the_original_algorithm(counts, num_layers, dtype):
    outputs, targets, leaves = layered(sum(counts), 5, counts, num_layers, dtype)
    targets = [{**t, "boxes": t["boxes"].to(dtype)} for t in targets]
    criterion = build().to(dtype)
    ours = criterion(outputs, targets)
    original = oracle_criterion.losses(outputs, targets, WEIGHTS, criterion.empty_weight)
    assert ours.keys() == original.keys()
    for name in original:
        assert torch.allclose(ours[name], original[name].to(dtype), atol=1e-6), name
    gradients = torch.autograd.grad(total(ours), leaves)
    expected = torch.autograd.grad(total(original), leaves)
    for a, b in zip(gradients, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_batch_without_objects():
    outputs, targets, leaves = layered(0, 5, [0, 0], 2)
    losses = build().double()(outputs, targets)
    assert float(losses["class_error"]) == 100  # as in the original; engine leaves it out
    assert float(losses["loss_bbox"].detach()) == float(losses["loss_giou_0"].detach()) == 0
    for gradient in torch.autograd.grad(total(losses), leaves):
        assert gradient.isfinite().all()


def test_boxes_without_area_give_finite_losses_and_gradients():
    outputs, targets, leaves = layered(0, 4, [2], 1)
    outputs["pred_boxes"].data[..., 2:] = 0
    targets[0]["boxes"] = torch.tensor([[0.5, 0.5, 0, 0], [0.2, 0.2, 0, 0.3]]).double()
    losses = build().double()(outputs, targets)
    assert all(value.isfinite() for value in losses.values())
    for gradient in torch.autograd.grad(total(losses), leaves):
        assert gradient.isfinite().all()


def test_perfect_boxes_cost_nothing():
    outputs, targets, _ = layered(0, 3, [3], 1)
    outputs["pred_boxes"] = targets[0]["boxes"][None]
    losses = build(["boxes"]).double()(outputs, targets)
    assert float(losses["loss_bbox"]) == 0
    assert float(losses["loss_giou"]) == pytest.approx(0, abs=1e-12)


def test_losses_of_pairs_are_divided_by_the_number_of_objects_that_is_given():
    outputs, targets, _ = layered(0, 8, [3, 1], 2)
    criterion = build()
    own, given = criterion(outputs, targets), criterion(outputs, targets, 10)
    as_tensor = criterion(outputs, targets, torch.tensor(10.0))
    for name in own:
        of_pairs = "bbox" in name or "giou" in name
        expected = own[name] * 4 / 10 if of_pairs else own[name]
        assert torch.allclose(given[name], expected, rtol=1e-12), name
        assert as_tensor[name].dtype == own[name].dtype and given[name] == as_tensor[name]


@pytest.mark.parametrize(("count", "num_batches", "mean"), [(7, 2, 3.5), (3, 4, 1), (0, 1, 1)])
def test_objects_of_a_batch_on_average(count, num_batches, mean):
    assert mean_number_of_objects(count, torch.device("cpu"), num_batches) == mean


def test_only_the_terms_asked_for():
    outputs, targets, _ = layered(0, 3, [2], 2)
    assert build(["boxes"]).double()(outputs, targets).keys() == {
        *("loss_bbox", "loss_giou", "loss_bbox_0", "loss_giou_0"),
    }
    with pytest.raises(ValueError, match="zzz"):
        build(["zzz"])


def test_order_of_the_dictionary_is_that_of_the_log():
    outputs, targets, _ = layered(0, 3, [2], 2)
    terms = ["loss_ce", "class_error", "loss_bbox", "loss_giou", "cardinality_error"]
    auxiliary = [f"{name}_0" for name in terms if name != "class_error"]
    assert list(build().double()(outputs, targets)) == terms + auxiliary


def test_weight_of_no_object_is_part_of_the_state():
    criterion = build(eos_coef=0.25)
    assert criterion.state_dict().keys() == {"empty_weight"}
    assert criterion.empty_weight.tolist() == [1.0] * NUM_CLASSES + [0.25]
