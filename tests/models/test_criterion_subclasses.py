"""Subclasses of `SetCriterion`, and other matchers."""

import pytest
import torch

from benchmarks.original import criterion as oracle_criterion
from models.criterion import SetCriterion
from models.matcher import HungarianMatcher
from tests.models import small_models
from tests.models.test_criterion import LOSS_WEIGHTS, NUM_CLASSES, TERMS, build, layered, total
from tests.models.test_matcher import WEIGHTS

COUNTS = [3, 0, 1, 6]


class Recording(SetCriterion):
    """Calls of the methods named in ``recorded``, with their arguments."""

    def __init__(self, *args):
        super().__init__(*args)
        self.calls = []


def overriding(*methods):
    """A subclass that records the calls of some methods, and computes what they compute."""

    def recording(name):
        original = getattr(SetCriterion, name)

        def method(self, *args, **kwargs):
            self.calls.append((name, args, kwargs))
            return original(self, *args, **kwargs)

        return method

    return type("Overriding", (Recording,), {name: recording(name) for name in methods})


def build_as(kind, matcher=None, terms=TERMS):
    return kind(NUM_CLASSES, matcher or HungarianMatcher(*WEIGHTS), LOSS_WEIGHTS, 0.1, terms)


def assert_same(ours, expected, leaves, tolerance):
    assert list(ours) == list(expected)
    for name, value in expected.items():
        assert value.dtype == ours[name].dtype, name
        assert torch.allclose(ours[name], value, rtol=tolerance, atol=tolerance), name
    gradients = zip(
        torch.autograd.grad(total(ours), leaves),
        torch.autograd.grad(total(expected), leaves),
        strict=True,
    )
    for ours_of_leaf, of_leaf in gradients:
        assert torch.allclose(ours_of_leaf, of_leaf, rtol=tolerance, atol=tolerance)


METHODS = ["loss_labels", "loss_boxes", "loss_cardinality", "get_loss", "_get_src_permutation_idx"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("counts", [COUNTS, [0, 0]])
def test_an_overriding_method_that_computes_the_same_gives_the_same(
    method, dtype, tolerance, counts
):
    outputs, targets, leaves = layered(3, 5, counts, 3, dtype)
    targets = [{**t, "boxes": t["boxes"].to(dtype)} for t in targets]
    criterion = build_as(overriding(method)).to(dtype)
    ours = criterion(outputs, targets)
    assert {name for name, _, _ in criterion.calls} == {method}
    assert_same(ours, build().to(dtype)(outputs, targets), leaves, tolerance)


def test_only_what_is_overridden_is_computed_layer_by_layer():
    outputs, targets, _ = layered(3, 5, COUNTS, 3)
    criterion = build_as(overriding("loss_boxes", "_get_tgt_permutation_idx")).double()
    criterion(outputs, targets)
    assert [name for name, _, _ in criterion.calls] == ["loss_boxes"] * 3
    criterion.loss_labels = None  # never called
    with pytest.raises(TypeError):
        criterion(outputs, targets)


def test_arguments_of_an_overriding_method_are_the_original_ones():
    outputs, targets, _ = layered(3, 5, COUNTS, 3)
    criterion = build_as(overriding("loss_labels", "get_loss")).double()
    criterion(outputs, targets, 7)
    labels = [(args, kwargs) for name, args, kwargs in criterion.calls if name == "loss_labels"]
    layers = [outputs, *outputs["aux_outputs"]]
    assert [kwargs for _, kwargs in labels] == [{}, {"log": False}, {"log": False}]
    for layer, (args, _) in zip(layers, labels, strict=True):
        assert args[0] is layer and args[1] is targets and args[3] == 7
        expected = criterion.matcher(layer, targets)
        assert [[x.tolist() for x in pair] for pair in args[2]] == [
            [x.tolist() for x in pair] for pair in expected
        ]
        assert all(x.dtype == torch.int64 and x.device.type == "cpu" for p in args[2] for x in p)
    by_name = [(args[0], kwargs) for name, args, kwargs in criterion.calls if name == "get_loss"]
    assert by_name == [
        *(("labels", {}), ("labels", {"log": False}), ("labels", {"log": False})),
        *[(name, {}) for name in ("boxes", "cardinality") for _ in layers],
    ]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("counts", "divisor"), [([3, 0, 1], 4), ([0], 1)])
def test_an_overriding_method_gets_the_number_of_objects(training, counts, divisor):
    outputs, targets, _ = layered(3, 5, counts, 2)
    criterion = build_as(overriding("loss_boxes")).train(training)
    criterion(outputs, targets)
    criterion(outputs, targets, torch.tensor(2.5, dtype=torch.float64))
    assert [float(args[3]) for _, args, _ in criterion.calls] == [divisor] * 2 + [2.5] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_number_of_objects_does_not_widen_the_losses(dtype):
    outputs, targets, _ = layered(3, 5, [2], 2, dtype)
    count = torch.tensor(2.0, dtype=torch.float64)
    targets = [{**t, "boxes": t["boxes"].float()} for t in targets]
    criterion = build_as(overriding("loss_boxes"), lambda outputs, targets: first_queries(targets))
    assert criterion(outputs, targets, count)["loss_bbox"].dtype == torch.float32


def test_methods_on_their_own_equal_the_original_algorithm():
    outputs, targets, _ = layered(3, 5, COUNTS, 1)
    criterion = build().double()
    indices = criterion.matcher(outputs, targets)
    arguments = outputs, targets, indices, 7
    ours = {
        **criterion.loss_labels(*arguments),
        **criterion.loss_boxes(*arguments),
        **criterion.loss_cardinality(*arguments),
    }
    expected = oracle_criterion.layer_losses(*arguments, criterion.empty_weight)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert float(ours[name].detach()) == pytest.approx(float(value.detach()), rel=1e-6), name
        assert not ours[name].requires_grad or name.startswith("loss")
    assert criterion.loss_labels(*arguments, log=False).keys() == {"loss_ce"}
    for name in ("labels", "boxes", "cardinality"):
        by_name = criterion.get_loss(name, *arguments)
        directly = getattr(criterion, f"loss_{name}")(*arguments)
        assert by_name.keys() == directly.keys()
        assert all(torch.equal(by_name[key], directly[key]) for key in directly)


def test_indices_of_predictions_and_of_targets():
    criterion = build()
    indices = [
        (torch.tensor([1, 4]), torch.tensor([2, 0])),
        (torch.tensor([], dtype=torch.int64),) * 2,
        (torch.tensor([3]), torch.tensor([1])),
    ]
    image, query = criterion._get_src_permutation_idx(indices)
    assert image.tolist() == [0, 0, 2] and query.tolist() == [1, 4, 3]
    image, target = criterion._get_tgt_permutation_idx(indices)
    assert image.tolist() == [0, 0, 2] and target.tolist() == [2, 0, 1]


class WithObjectness(SetCriterion):
    """Adds a loss in ``get_loss``, on an output that only the last layer has."""

    def objectness(self, outputs, targets, indices, num_boxes):
        if "pred_objectness" not in outputs:
            return {}
        matched = outputs["pred_objectness"][self._get_src_permutation_idx(indices)]
        return {"loss_objectness": (1 - matched).sum() / num_boxes}

    def get_loss(self, loss, outputs, targets, indices, num_boxes, **kwargs):
        if loss == "objectness":
            return self.objectness(outputs, targets, indices, num_boxes, **kwargs)
        return super().get_loss(loss, outputs, targets, indices, num_boxes, **kwargs)


def test_a_subclass_adds_losses():
    outputs, targets, leaves = layered(3, 5, COUNTS, 3)
    outputs["pred_objectness"] = torch.full((4, 5), 0.25).double()
    criterion = build_as(WithObjectness, terms=[*TERMS, "objectness"]).double()
    losses = criterion(outputs, targets)
    num_matched = 3 + 1 + 5
    assert losses.pop("loss_objectness") == pytest.approx(0.75 * num_matched / 10)
    assert_same(losses, build().double()(outputs, targets), leaves, 1e-12)
    in_all_layers = {**outputs, "aux_outputs": [outputs] * 2}
    assert {"loss_objectness_0", "loss_objectness_1"} <= criterion(in_all_layers, targets).keys()


class WithMethod(SetCriterion):
    loss_objectness = WithObjectness.objectness


def test_a_method_adds_a_loss_and_leaves_the_others_batched():
    outputs, targets, leaves = layered(3, 5, COUNTS, 3)
    outputs["pred_objectness"] = torch.full((4, 5), 0.25).double()
    terms = ["objectness", *TERMS]
    expected = build_as(WithObjectness, terms=terms).double()(outputs, targets)
    criterion = build_as(WithMethod, terms=terms).double()
    losses = criterion(outputs, targets)
    assert list(losses) == list(expected)
    assert losses.pop("loss_objectness") == expected.pop("loss_objectness")
    assert_same(losses, expected, leaves, 1e-12)
    for name in ("labels", "boxes", "cardinality"):
        assert criterion._has_batched_form(name)
    assert not criterion._has_batched_form("objectness")
    assert not criterion._has_batched_form("masks")


def test_an_unknown_loss_is_refused():
    outputs, targets, _ = layered(3, 5, COUNTS, 1)
    with pytest.raises(ValueError, match=r"\['zzz'\].*get_loss"):
        build(["labels", "zzz"])
    with pytest.raises(ValueError, match="zzz"):
        build_as(WithObjectness, terms=["zzz"]).double()(outputs, targets)


def test_a_method_that_is_replaced_afterwards_is_called(monkeypatch):
    outputs, targets, _ = layered(3, 5, COUNTS, 2)
    criterion = build().double()
    criterion.loss_boxes = lambda outputs, targets, indices, num_boxes: {"mine": num_boxes}
    assert {"mine", "mine_0"} <= criterion(outputs, targets).keys()
    monkeypatch.setattr(SetCriterion, "loss_labels", lambda *args, **kwargs: {"other": args[4]})
    losses = build().double()(outputs, targets)
    assert {"other", "other_0", "loss_bbox_0"} <= losses.keys() and "loss_ce" not in losses


def first_queries(targets):
    """Pairs of the first queries and the objects of each image, in their order."""
    counts = [min(len(target["labels"]), 5) for target in targets]
    return [(torch.arange(count), torch.arange(count)) for count in counts]


def test_any_callable_is_a_matcher():
    outputs, targets, leaves = layered(3, 5, COUNTS, 3)

    def matcher(outputs, targets):
        assert "aux_outputs" not in outputs
        return HungarianMatcher(*WEIGHTS)(outputs, targets)

    criterion = build_as(overriding(), matcher).double()
    assert_same(criterion(outputs, targets), build().double()(outputs, targets), leaves, 1e-12)
    assert build_as(SetCriterion, matcher).state_dict().keys() == {"empty_weight"}


def test_a_matcher_may_find_another_number_of_pairs_in_each_layer():
    outputs, targets, _ = layered(3, 5, COUNTS, 3)
    layers = [outputs, *outputs["aux_outputs"]]

    def matcher(of_layer, targets):
        number = [x["pred_logits"] is of_layer["pred_logits"] for x in layers].index(True)
        return [(q[number:], t[number:]) for q, t in first_queries(targets)]

    losses = build_as(SetCriterion, matcher).double()(outputs, targets)
    for layer, suffix in zip(layers, ["", "_0", "_1"], strict=True):
        expected = oracle_criterion.layer_losses(
            layer, targets, matcher(layer, targets), 10, build().double().empty_weight
        )
        for name, value in expected.items():
            if name != "class_error" or not suffix:
                assert torch.allclose(losses[name + suffix], value.to(torch.float64)), name


def test_decoder_layers_may_have_different_numbers_of_queries():
    outputs, targets, _ = layered(3, 5, COUNTS, 2)
    fewer = {name: value[:, :3] for name, value in outputs["aux_outputs"][0].items()}
    criterion = build().double()
    losses = criterion({**outputs, "aux_outputs": [fewer]}, targets)
    last, auxiliary = criterion({**outputs, "aux_outputs": []}, targets), criterion(fewer, targets)
    for name in ("loss_ce", "loss_bbox", "loss_giou", "cardinality_error"):
        assert torch.allclose(losses[name], last[name]), name
        assert torch.allclose(losses[f"{name}_0"], auxiliary[name]), name


SIZES = [(64, 80), (96, 72)]


class OriginalMasks(Recording):
    """Selects masks in the words of the original."""

    def loss_masks(self, outputs, targets, indices, num_boxes):
        self.calls.append(outputs)
        source = self._get_src_permutation_idx(indices)
        image, number = self._get_tgt_permutation_idx(indices)
        assert isinstance(outputs["pred_masks"], torch.Tensor)
        masks = outputs["pred_masks"][source]
        objects = [targets[i]["masks"][n] for i, n in zip(image, number, strict=True)]
        assert len(masks) == len(objects)
        return {"loss_mask": masks.mean() / num_boxes, "loss_dice": masks.sum() * 0}


@pytest.mark.parametrize("kind", [OriginalMasks, overriding("loss_masks"), overriding("get_loss")])
def test_masks_are_of_the_last_layer_alone(kind):
    model = small_models.build_segmenter(dropout=0.0)
    model.detr.aux_loss = True
    targets = small_models.targets_for(SIZES, [3, 1], torch.float32)
    terms = ["labels", "masks"]
    criterion = kind(5, HungarianMatcher(*WEIGHTS), LOSS_WEIGHTS, 0.1, terms)
    outputs = model(small_models.images(*SIZES))
    losses = criterion(outputs, targets)
    expected = SetCriterion(5, criterion.matcher, LOSS_WEIGHTS, 0.1, terms)(outputs, targets)
    assert list(losses) == list(expected) and "loss_mask_0" not in losses
    assert losses["loss_mask"].requires_grad
    if kind is not OriginalMasks:
        for name, value in expected.items():
            assert torch.allclose(losses[name], value, rtol=1e-6), name


def test_targets_without_masks_are_refused_in_words():
    outputs, targets, _ = layered(3, 5, [1, 1], 1)
    outputs["pred_masks"] = torch.zeros(2, 5, 4, 4)
    targets[0]["masks"] = torch.zeros(1, 8, 8)
    with pytest.raises(ValueError, match='"masks" needs "pred_masks"'):
        build(["masks"]).double()(outputs, targets)
