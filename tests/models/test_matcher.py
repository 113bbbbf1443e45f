"""Matching against the original's algorithm and against brute force."""

from itertools import permutations

import pytest
import torch

from benchmarks.original import criterion as oracle_criterion
from models.matcher import HungarianMatcher, MatchedPairs, Objects, match_layers
from util.errors import DivergenceError

WEIGHTS = (1.0, 5.0, 2.0)


def case(seed, num_queries, counts, num_classes=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    batch_size = len(counts)
    outputs = {
        "pred_logits": torch.randn(
            batch_size, num_queries, num_classes + 1, generator=generator, dtype=dtype
        ),
        "pred_boxes": torch.rand(batch_size, num_queries, 4, generator=generator, dtype=dtype),
    }
    targets = [
        {
            "labels": torch.randint(0, num_classes, (count,), generator=generator),
            "boxes": torch.rand(count, 4, generator=generator, dtype=dtype) * 0.5 + 0.1,
        }
        for count in counts
    ]
    return outputs, targets


def pairs(indices):
    return [sorted(zip(q.tolist(), t.tolist(), strict=True)) for q, t in indices]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("weights", [WEIGHTS, (1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_equals_the_original_algorithm(seed, weights):
    outputs, targets = case(seed, 8, [3, 0, 8, 11, 1])
    matched = HungarianMatcher(*weights)(outputs, targets)
    assert pairs(matched) == pairs(oracle_criterion.match(outputs, targets, weights))


def test_is_the_cheapest_of_all_assignments():
    outputs, targets = case(3, 5, [3])
    matcher = HungarianMatcher(*WEIGHTS)
    objects = Objects.from_targets(targets)
    cost = matcher._costs_on_host(
        outputs["pred_logits"][None], outputs["pred_boxes"][None], objects
    )[0]
    ((query, target),) = matcher(outputs, targets)
    best = min(sum(cost[i, q] for i, q in enumerate(qs)) for qs in permutations(range(5), 3))
    assert cost[target, query].sum() == pytest.approx(best)


def test_indices_are_sorted_int64_on_the_cpu():
    outputs, targets = case(0, 7, [4, 9, 0])
    for (query, target), wanted in zip(
        HungarianMatcher(*WEIGHTS)(outputs, targets), [4, 7, 0], strict=True
    ):
        assert len(query) == len(target) == wanted
        assert query.dtype == target.dtype == torch.int64
        assert query.tolist() == sorted(set(query.tolist()))


def test_layers_are_matched_as_separately():
    layers = [case(seed, 6, [2, 7, 0, 3])[0] for seed in range(4)]
    _, targets = case(9, 6, [2, 7, 0, 3])
    matcher = HungarianMatcher(*WEIGHTS)
    indices = matcher.match_stacked(
        torch.stack([layer["pred_logits"] for layer in layers]),
        torch.stack([layer["pred_boxes"] for layer in layers]),
        Objects.from_targets(targets),
        targets,
    )
    assert [pairs(layer) for layer in indices] == [pairs(matcher(x, targets)) for x in layers]
    matches = MatchedPairs.from_indices(indices, 6, [2, 7, 0, 3], torch.device("cpu"))
    first_objects = [0, 2, 9, 9]
    for layer, query_row, target_row in zip(indices, matches.query, matches.target, strict=True):
        expected = [
            (image * 6 + int(q), first_objects[image] + int(t))
            for image, (queries, objects) in enumerate(layer)
            for q, t in zip(queries, objects, strict=True)
        ]
        assert list(zip(query_row.tolist(), target_row.tolist(), strict=True)) == expected


class CountingMatcher(HungarianMatcher):
    """Overrides ``forward``, so that each layer is a call."""

    calls = 0

    def forward(self, outputs, targets):
        self.calls += 1
        assert "aux_outputs" not in outputs
        return super().forward(outputs, targets)


def test_a_matcher_is_called_for_each_layer_unless_it_is_ours():
    layers, targets = [case(seed, 6, [2, 3])[0] for seed in range(3)], case(9, 6, [2, 3])[1]
    layers[0]["aux_outputs"] = layers[1:]
    stacked = (
        torch.stack([layer["pred_logits"] for layer in layers]),
        torch.stack([layer["pred_boxes"] for layer in layers]),
        Objects.from_targets(targets),
    )
    ours, counting = HungarianMatcher(*WEIGHTS), CountingMatcher(*WEIGHTS)
    expected = [pairs(ours(layer, targets)) for layer in layers]
    assert [pairs(p) for p in match_layers(counting, layers, targets, stacked)] == expected
    assert counting.calls == 3
    assert [pairs(p) for p in match_layers(ours, layers, targets, None)] == expected
    as_numpy = [(query.numpy(), target.tolist()) for query, target in ours(layers[0], targets)]
    converted = match_layers(lambda outputs, targets: as_numpy, layers[:1], targets, stacked)[0]
    assert all(x.dtype == torch.int64 for pair in converted for x in pair)
    assert pairs(converted) == expected[0]


def test_a_replaced_forward_is_called(monkeypatch):
    outputs, targets = case(0, 4, [2])
    stacked = (
        outputs["pred_logits"][None],
        outputs["pred_boxes"][None],
        Objects.from_targets(targets),
    )
    nothing = [(torch.empty(0, dtype=torch.int64),) * 2]
    matcher = HungarianMatcher(*WEIGHTS)
    matcher.forward = lambda outputs, targets: nothing
    assert pairs(match_layers(matcher, [outputs], targets, stacked)[0]) == [[]]
    monkeypatch.setattr(HungarianMatcher, "forward", lambda self, outputs, targets: nothing)
    matcher = HungarianMatcher(*WEIGHTS)
    assert pairs(match_layers(matcher, [outputs], targets, stacked)[0]) == [[]]


def test_order_of_objects_does_not_matter():
    outputs, targets = case(5, 9, [6])
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    shuffled = [{name: value[order] for name, value in targets[0].items()}]
    matcher = HungarianMatcher(*WEIGHTS)
    ((query, target),) = matcher(outputs, targets)
    ((query2, target2),) = matcher(outputs, shuffled)
    assert pairs([(query, target)]) == pairs([(query2, order[target2])])


@pytest.mark.parametrize("field", ["pred_logits", "pred_boxes"])
def test_predictions_that_are_not_finite_name_the_image(field):
    outputs, targets = case(0, 4, [1, 2])
    outputs[field][1, 2] = float("nan")
    with pytest.raises(DivergenceError, match="image 1 of the batch"):
        HungarianMatcher(*WEIGHTS)(outputs, targets)
    for image_id, target in enumerate(targets, start=70):
        target["image_id"] = torch.tensor([image_id])
    with pytest.raises(DivergenceError, match="image 71 "):
        HungarianMatcher(*WEIGHTS)(outputs, targets)


def test_no_costs_at_all():
    with pytest.raises(ValueError, match="--set_cost_class"):
        HungarianMatcher(0, 0, 0)
