"""Losses of all decoder layers together against the methods of `SetCriterion`, layer by layer."""

import pytest
import torch

from models.fast import batched_losses
from models.fast.batched_losses import DecoderLayers
from tests.models.test_criterion import NUM_CLASSES, build, layered

CASES = {
    "labels": lambda c, layers, matches: batched_losses.loss_labels(
        layers, matches, c.num_classes, c.empty_weight
    ),
    "boxes": lambda c, layers, matches: batched_losses.loss_boxes(layers, matches, 3.5),
    "cardinality": lambda c, layers, matches: batched_losses.loss_cardinality(layers),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("counts", [[3, 0, 1, 6], [9, 2, 0], [0, 0], [1]])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equals_the_methods(name, counts, dtype):
    outputs, targets, _ = layered(sum(counts), 5, counts, 3, dtype)
    layers = [outputs, *outputs["aux_outputs"]]
    criterion = build().to(torch.float64 if dtype == torch.float64 else torch.float32)
    # Other weights for each class: layers that match other objects have other sums of weights.
    criterion.empty_weight.copy_(torch.linspace(0.2, 1, NUM_CLASSES + 1))
    finite = [{k: v.float() for k, v in x.items() if k != "aux_outputs"} for x in layers]
    indices = [criterion.matcher(layer, [_as_float(t) for t in targets]) for layer in finite]
    stacked = DecoderLayers.stack(layers, targets)
    batched = CASES[name](criterion, stacked, stacked.matches(indices))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    for number, (layer, of_layer) in enumerate(zip(layers, batched, strict=True)):
        options = {"log": number == 0} if name == "labels" else {}
        expected = criterion.get_loss(name, layer, targets, indices[number], 3.5, **options)
        assert list(of_layer) == list(expected)
        for key, value in expected.items():
            assert value.shape == () and value.dtype == of_layer[key].dtype, key
            assert torch.allclose(of_layer[key], value, rtol=tolerance, atol=tolerance), key


def _as_float(target):
    return {**target, "boxes": target["boxes"].float()}


def test_layers_of_different_shapes_are_not_stacked():
    outputs, targets, _ = layered(0, 5, [2, 1], 2)
    shorter = {name: value[:, :3] for name, value in outputs["aux_outputs"][0].items()}
    assert DecoderLayers.stack([outputs, shorter], targets) is None
    assert DecoderLayers.stack([outputs, {"pred_logits": outputs["pred_logits"]}], targets) is None
    assert DecoderLayers.stack([{}], targets) is None
    assert DecoderLayers.stack([outputs], targets).logits.shape == (1, 2, 5, NUM_CLASSES + 1)


def test_layers_with_different_numbers_of_pairs_have_no_common_matches():
    outputs, targets, _ = layered(0, 5, [2, 1], 2)
    layers = DecoderLayers.stack([outputs, *outputs["aux_outputs"]], targets)
    both, one, none = torch.tensor([1, 3]), torch.tensor([2]), torch.tensor([], dtype=torch.int64)
    full = [(both, torch.tensor([1, 0])), (one, torch.tensor([0]))]
    assert layers.matches([full, [(one, torch.tensor([0])), (none, none)]]) is None
    matches = layers.matches([full, full])
    assert matches.query.tolist() == [[1, 3, 7]] * 2
    assert matches.target.tolist() == [[1, 0, 2]] * 2
